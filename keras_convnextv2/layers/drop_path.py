import keras
from keras import ops

from keras_convnextv2.layers.composite import plain


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class DropPath(keras.layers.Layer):
    """Stochastic depth: in training, each sample is zeroed with probability `rate`, else divided by `1 - rate`.

    Args:
        rate: probability in [0, 1).
        seed: int, or None for a random start.
    Raises:
        ValueError: a rate outside [0, 1).
    Shapes:
        (B, ...) -> (B, ...)
    Source:
        Huang et al. 2016; per sample as timm's drop_path.
    """

    def __init__(self, rate=0.0, seed=None, **kwargs):
        super().__init__(**kwargs)
        rate, seed = plain(rate), plain(seed)
        if not 0 <= rate < 1:
            raise ValueError(f"drop path rate must be in [0, 1). Received: {rate!r}.")
        self.rate = rate
        self.seed = seed
        self.seeds = keras.random.SeedGenerator(seed) if rate else None

    def call(self, inputs, training=None):
        if not (training and self.rate):
            return inputs
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        kept = keras.random.uniform(shape, seed=self.seeds) >= self.rate
        return inputs * ops.cast(ops.cast(kept, "float32") / (1 - self.rate), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
