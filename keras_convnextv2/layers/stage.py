import keras

from keras_convnextv2.layers.block import ConvNeXtV2Block
from keras_convnextv2.layers.composite import Composite, plain
from keras_convnextv2.layers.downsample import Downsample


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class Stage(Composite):
    """The blocks of one resolution, after a downsampling in all stages but the first.

    Args:
        dim: channels of its blocks.
        drop_paths: the drop path rate of each block; its length is the depth.
        downsample: whether the stage begins with `Downsample`.
        remat, seed: as in `ConvNeXtV2Block`; block b takes seed + b.
    Shapes:
        (B, H, W, C) -> (B, H', W', dim) with H' = H // 2 after a downsampling, or rows with their `Visible`
    """

    def __init__(self, dim, drop_paths, downsample=True, remat=False, seed=None, *, parts=None, **kwargs):
        super().__init__(parts=parts, **kwargs)
        self.dim = plain(dim)
        self.drop_paths = plain(drop_paths)
        self.downsample = plain(downsample)
        self.remat = plain(remat)
        self.seed = plain(seed)
        policy = self.dtype_policy
        self.downsampling = Downsample(self.dim, dtype=policy, name="downsample") if downsample else None
        self.blocks = [
            ConvNeXtV2Block(
                self.dim,
                rate,
                remat=self.remat,
                seed=None if self.seed is None else self.seed + b,
                dtype=policy,
                name=f"block_{b}",
            )
            for b, rate in enumerate(self.drop_paths)
        ]
        self.restore()

    def build(self, input_shape):
        if self.downsampling:
            self.downsampling.build(input_shape)
        for block in self.blocks:
            block.build((*input_shape[:-1], self.dim))

    def call(self, inputs, patches=None, training=None):
        x = inputs
        if self.downsampling:
            x = self.downsampling(x) if patches is None else patches.each(self.downsampling, x)
        for block in self.blocks:
            x = block(x, patches=patches, training=training)
        return x

    def compute_output_shape(self, input_shape):
        if self.downsampling:
            return self.downsampling.compute_output_shape(input_shape)
        return (*input_shape[:-1], self.dim)

    def get_config(self):
        own = {"dim": self.dim, "drop_paths": self.drop_paths, "downsample": self.downsample}
        return {**super().get_config(), **own, "remat": self.remat, "seed": self.seed}
