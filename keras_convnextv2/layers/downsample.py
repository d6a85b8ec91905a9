import keras

from keras_convnextv2.layers.composite import Composite, plain
from keras_convnextv2.layers.norm import LayerNorm
from keras_convnextv2.layers.patch_conv import PatchConv2D


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class Downsample(Composite):
    """LayerNorm, then patches of 2 x 2 positions to `dim` channels.

    Shapes:
        (B, H, W, C) -> (B, H // 2, W // 2, dim)
    """

    def __init__(self, dim, *, parts=None, **kwargs):
        super().__init__(parts=parts, **kwargs)
        self.dim = plain(dim)
        self.norm = LayerNorm(dtype=self.dtype_policy, name="norm")
        self.conv = PatchConv2D(self.dim, 2, dtype=self.dtype_policy, name="conv")
        self.restore()

    def build(self, input_shape):
        self.norm.build(input_shape)
        self.conv.build(input_shape)

    def call(self, inputs):
        return self.conv(self.norm(inputs))

    def compute_output_shape(self, input_shape):
        return self.conv.compute_output_shape(input_shape)

    def get_config(self):
        return {**super().get_config(), "dim": self.dim}
