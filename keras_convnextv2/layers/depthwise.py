import keras

from keras_convnextv2 import kernels
from keras_convnextv2.layers.composite import plain
from keras_convnextv2.layers.initial import InitialNormal


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class DepthwiseConv2D(keras.layers.Layer):
    """Depthwise convolution with bias, stride 1, zero padding that keeps the size; one filter a channel.

    The same numbers as `keras.layers.DepthwiseConv2D(kernel_size, padding="same")` with the same weight layout,
    formulated for the place where it runs (`keras_convnextv2.kernels`).

    Args:
        kernel_size: odd int.
    Raises:
        ValueError: an even kernel size.
    Shapes:
        (B, H, W, C) -> (B, H, W, C); kernel (kernel_size, kernel_size, C, 1)
    """

    def __init__(self, kernel_size=7, **kwargs):
        super().__init__(**kwargs)
        kernel_size = plain(kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that the size is kept. Received: {kernel_size!r}.")
        self.kernel_size = kernel_size

    def build(self, input_shape):
        channels = input_shape[-1]
        shape = (self.kernel_size, self.kernel_size, channels, 1)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=InitialNormal())
        self.bias = self.add_weight(name="bias", shape=(channels,), initializer="zeros")

    def call(self, inputs):
        return kernels.depthwise(inputs, kernels.tensor_of(self.kernel), kernels.tensor_of(self.bias))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}
