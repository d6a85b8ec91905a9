import math

import keras
from keras import ops

from keras_convnextv2.layers.batch_norm import BatchNorm
from keras_convnextv2.layers.composite import Composite, plain
from keras_convnextv2.layers.conv import convolution


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class ConvNorm(Composite):
    """What dense heads are made of: a convolution without bias, batch normalisation, ReLU. The size stays.

    Args:
        dim: output channels.
        kernel_size: odd.
        synchronized: as in `BatchNorm`.
    Shapes:
        (B, H, W, C) -> (B, H, W, dim)
    Source:
        ConvModule of mmcv, with its first weights: a normal of variance 2 / (kernel_size**2 * dim).
    """

    def __init__(self, dim, kernel_size=1, synchronized=False, *, parts=None, **kwargs):
        super().__init__(parts=parts, **kwargs)
        self.dim = plain(dim)
        self.kernel_size = plain(kernel_size)
        deviation = math.sqrt(2 / (self.kernel_size**2 * self.dim))
        self.conv = convolution(self.dim, self.kernel_size, deviation, "conv", self.dtype_policy, use_bias=False)
        self.norm = BatchNorm(synchronized=synchronized, dtype=self.dtype_policy, name="norm")
        self.restore()

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.norm.build((*input_shape[:-1], self.dim))

    def call(self, inputs, training=None):
        return ops.relu(self.norm(self.conv(inputs), training=training))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.dim)

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "kernel_size": self.kernel_size}
