import keras

from keras_convnextv2 import kernels
from keras_convnextv2.layers.composite import Composite, plain
from keras_convnextv2.layers.norm import LayerNorm
from keras_convnextv2.layers.patch_conv import PatchConv2D

TOO_SMALL = "images must be at least {0} x {0}, the network's total stride. Received: "


def check_size(size, smallest):
    """Raises unless both sides of `size`, as far as they are known, are at least `smallest`."""
    if any(side is not None and side < smallest for side in size):
        raise ValueError(
            f"{TOO_SMALL.format(smallest)}{tuple(size)}. Enlarge them, or take a smaller stem_patch_size (1, 2)."
        )


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class Stem(Composite):
    """Patches of the picture to `dim` channels, then LayerNorm.

    Args:
        dim: output channels.
        patch_size: 4 in the paper; 1 or 2 for small pictures.
        total_stride: of the whole network: the smallest picture it takes.
    Raises:
        ValueError: a picture smaller than the total stride.
    Shapes:
        (B, H, W, C) -> (B, H // patch_size, W // patch_size, dim)
    """

    def __init__(self, dim, patch_size=4, total_stride=None, *, parts=None, **kwargs):
        super().__init__(parts=parts, **kwargs)
        self.dim = plain(dim)
        self.patch_size = plain(patch_size)
        self.total_stride = plain(total_stride)
        self.conv = PatchConv2D(self.dim, self.patch_size, dtype=self.dtype_policy, name="conv")
        self.norm = LayerNorm(dtype=self.dtype_policy, name="norm")
        self.restore()

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.norm.build((*input_shape[:-1], self.dim))

    def call(self, inputs):
        smallest = self.total_stride or self.patch_size
        check_size(inputs.shape[1:3], smallest)
        return self.norm(self.conv(kernels.at_least(inputs, smallest, TOO_SMALL.format(smallest))))

    def compute_output_shape(self, input_shape):
        check_size(input_shape[1:3], self.total_stride or self.patch_size)
        return self.conv.compute_output_shape(input_shape)

    def get_config(self):
        own = {"dim": self.dim, "patch_size": self.patch_size, "total_stride": self.total_stride}
        return {**super().get_config(), **own}
