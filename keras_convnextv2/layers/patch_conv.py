import keras

from keras_convnextv2 import kernels
from keras_convnextv2.layers.composite import plain
from keras_convnextv2.layers.initial import InitialNormal


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class PatchConv2D(keras.layers.Layer):
    """Convolution with bias whose stride is its kernel size, unpadded: the stem and the downsampling.

    Args:
        dim: output channels.
        patch_size: kernel size and stride.
    Raises:
        ValueError: an image smaller than the patch.
    Shapes:
        (B, H, W, C) -> (B, H // patch_size, W // patch_size, dim); kernel (patch_size, patch_size, C, dim)
    """

    def __init__(self, dim, patch_size, **kwargs):
        super().__init__(**kwargs)
        self.dim = plain(dim)
        self.patch_size = plain(patch_size)

    def build(self, input_shape):
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})
        shape = (self.patch_size, self.patch_size, input_shape[-1], self.dim)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=InitialNormal())
        self.bias = self.add_weight(name="bias", shape=(self.dim,), initializer="zeros")

    def call(self, inputs):
        return kernels.patch_conv(inputs, kernels.tensor_of(self.kernel), kernels.tensor_of(self.bias))

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        cut = [None if size is None else size // self.patch_size for size in (height, width)]
        return (batch, *cut, self.dim)

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "patch_size": self.patch_size}
