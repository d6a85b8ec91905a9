"""A network of a few hundred weights with a random layer in it, for tests of the engine around a model."""

import keras
import numpy as np
from keras import ops

CLASSES = 3


@keras.saving.register_keras_serializable(package="keras_convnextv2_tests")
class Jitter(keras.layers.Layer):
    """Scales each sample by a random factor in training, as drop path does."""

    def __init__(self, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        return inputs * keras.random.uniform((ops.shape(inputs)[0], 1), 0.5, 1.5, seed=self.seeds)


def small_model(seed=1, random=True):
    keras.utils.set_random_seed(seed)
    images = keras.Input((4, 5, 2))
    x = keras.layers.Conv2D(3, 3, activation="gelu", name="conv")(images)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = Jitter()(x) if random else x
    return keras.Model(images, keras.layers.Dense(CLASSES, name="head")(x))


def batches(count, size=6, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "images": rng.normal(size=(size, 4, 5, 2)).astype("float32"),
            "labels": rng.integers(0, CLASSES, size).astype("int32"),
        }
        for _ in range(count)
    ]


def sample_losses(model, batch):
    logits = model(batch["images"], training=True)
    return keras.losses.sparse_categorical_crossentropy(batch["labels"], logits, from_logits=True)
