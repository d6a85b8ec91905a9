import keras
from keras import ops

from keras_convnextv2.layers.block import ConvNeXtV2Block
from keras_convnextv2.layers.composite import Composite, plain
from keras_convnextv2.layers.initial import InitialNormal
from keras_convnextv2.layers.pointwise import Pointwise


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class Decoder(Composite):
    """FCMAE's decoder: project the visible rows, a learnt token at hidden positions, dense blocks, pixels.

    Args:
        dim: its channels.
        depth: its blocks.
        pixels: numbers predicted at each position: stride * stride * channels.
    Shapes:
        rows (B, N, C) with their `Visible` -> features (B, h, w, dim); any (..., dim) -> `pred` (..., pixels)
    Source:
        ConvNeXt V2, section 3; reference models/fcmae.py.
    """

    def __init__(self, dim=512, depth=1, pixels=3072, *, parts=None, **kwargs):
        super().__init__(parts=parts, **kwargs)
        self.dim = plain(dim)
        self.depth = plain(depth)
        self.pixels = plain(pixels)
        self.proj = Pointwise(self.dim, dtype=self.dtype_policy, name="proj")
        self.blocks = [ConvNeXtV2Block(self.dim, dtype=self.dtype_policy, name=f"block_{i}") for i in range(self.depth)]
        self.pred = Pointwise(self.pixels, dtype=self.dtype_policy, name="pred")
        self.restore()

    def build(self, input_shape):
        self.proj.build(input_shape)
        self.mask_token = self.add_weight(
            name="mask_token", shape=(self.dim,), initializer=InitialNormal(), autocast=False
        )
        for block in self.blocks:
            block.build((None, None, None, self.dim))
        self.pred.build((None, None, self.dim))

    def call(self, rows, patches, training=None):
        x = patches.map(self.proj(rows))  # (B, h, w, dim), zero where hidden
        hidden = 1 - patches.mask(x.shape[1] // patches.grid[0])
        x = x + ops.cast(hidden, x.dtype) * ops.cast(self.mask_token, x.dtype)
        for block in self.blocks:
            x = block(x, training=training)
        return x

    def compute_output_shape(self, input_shape, **patches):
        return (input_shape[0], None, None, self.dim)  # the grid is the patches'

    def get_config(self):
        return {**super().get_config(), "dim": self.dim, "depth": self.depth, "pixels": self.pixels}
