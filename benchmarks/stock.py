"""ConvNeXt V2 from Keras' stock layers alone: what a user writes without this package. It has the same numbers."""

import keras
from keras import ops

from keras_convnextv2.sizes import SIZES


class StockGRN(keras.layers.Layer):
    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="zeros")
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros")

    def call(self, x):
        norm = ops.sqrt(ops.sum(ops.square(x), axis=(1, 2), keepdims=True) + 1e-12)
        return self.gamma * (x * norm / (ops.mean(norm, axis=-1, keepdims=True) + 1e-6)) + self.beta + x


def stock_model(size, side, classes, dtype):
    layers, (depths, dims) = keras.layers, SIZES[size]

    def norm():
        return layers.LayerNormalization(epsilon=1e-6, dtype=dtype)

    images = keras.Input((side, side, 3))
    x = norm()(layers.Conv2D(dims[0], 4, strides=4, dtype=dtype)(images))
    for s, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        if s:
            x = layers.Conv2D(dim, 2, strides=2, dtype=dtype)(norm()(x))
        for _ in range(depth):
            y = norm()(layers.DepthwiseConv2D(7, padding="same", dtype=dtype)(x))
            y = StockGRN(dtype=dtype)(layers.Dense(4 * dim, activation="gelu", dtype=dtype)(y))
            x = x + layers.Dense(dim, dtype=dtype)(y)
    x = norm()(layers.GlobalAveragePooling2D(dtype="float32")(x))
    return keras.Model(images, layers.Dense(classes, dtype="float32")(x))
