import keras

from keras_convnextv2 import kernels
from keras_convnextv2.layers.initial import InitialNormal


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class Pointwise(keras.layers.Layer):
    """A linear layer over the channels of each position, with bias: the 1x1 convolutions of the network.

    The same numbers as `keras.layers.Dense(width)` with the same weight layout, formulated for the place where it
    runs (`keras_convnextv2.kernels`).

    Args:
        width: output channels.
    Shapes:
        (..., C) -> (..., width); kernel (C, width)
    """

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], self.width), initializer=InitialNormal())
        self.bias = self.add_weight(name="bias", shape=(self.width,), initializer="zeros")

    def call(self, inputs):
        return kernels.pointwise(inputs, kernels.tensor_of(self.kernel), kernels.tensor_of(self.bias))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}
