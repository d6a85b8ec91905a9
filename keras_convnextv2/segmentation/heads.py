"""The heads that make logits of a backbone's maps."""

import keras
from keras import ops

from keras_convnextv2.kernels.resampling import pooled, resized
from keras_convnextv2.layers import Dense
from keras_convnextv2.layers.composite import Composite, plain
from keras_convnextv2.layers.conv_norm import ConvNorm
from keras_convnextv2.layers.initial import InitialNormal

CLASSIFIER_STDDEV = 0.01  # mmsegmentation, decode_heads/decode_head.py


class _Head(Composite):
    """What both heads have: dropout and a classifier at each position."""

    def __init__(self, classes, channels, dropout, synchronized, parts, **kwargs):
        super().__init__(parts=parts, **kwargs)
        self.classes = plain(classes)
        self.channels = plain(channels)
        self.dropout = plain(dropout)
        self._synchronized = synchronized
        names = {} if isinstance(self.classes, int) else {"class_names": self.classes}
        units = len(self.classes) if names else self.classes
        # a whole channel at a time
        self.drop = keras.layers.SpatialDropout2D(self.dropout, data_format="channels_last", dtype=self.dtype_policy)
        self.classifier = Dense(
            units,
            kernel_initializer=InitialNormal(CLASSIFIER_STDDEV),
            dtype=self.dtype_policy,
            name="classifier",
            **names,
        )

    def _convolution(self, name, kernel_size=3):
        options = {"synchronized": self._synchronized, "dtype": self.dtype_policy, "name": name}
        return ConvNorm(self.channels, kernel_size, **options)

    def _classified(self, x, training):
        return self.classifier(self.drop(x, training=training))

    def get_config(self):
        own = {"classes": self.classes, "channels": self.channels, "dropout": self.dropout}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class UPerHead(_Head):
    """Pyramid pooling on the last map, a feature pyramid below it, all levels together at the resolution of the first.

    Args:
        classes: a number, or a name for each.
        channels: of every convolution.
        levels: how many maps it gets.
        pool_scales: bins along a side, one pooling each.
        dropout: probability that a channel is dropped before the classifier.
        synchronized: as in `BatchNorm`.
    Shapes:
        a list of (B, H_l, W_l, C_l), the finest first -> (B, H_0, W_0, classes)
    Source:
        Xiao et al. 2018 (UPerNet), section 3; mmsegmentation, decode_heads/uper_head.py.
    """

    def __init__(
        self,
        classes,
        channels=512,
        levels=4,
        pool_scales=(1, 2, 3, 6),
        dropout=0.1,
        synchronized=False,
        *,
        parts=None,
        **kwargs,
    ):
        super().__init__(classes, channels, dropout, synchronized, parts, **kwargs)
        self.levels = plain(levels)
        self.pool_scales = plain(pool_scales)
        self.pools = [self._convolution(f"pool_{p}", 1) for p in range(len(self.pool_scales))]
        self.bottleneck = self._convolution("bottleneck")
        self.laterals = [self._convolution(f"lateral_{level}", 1) for level in range(self.levels - 1)]
        self.smooths = [self._convolution(f"smooth_{level}") for level in range(self.levels - 1)]
        self.fusion = self._convolution("fusion")
        self.restore()

    def build(self, input_shape):
        *below, last = input_shape

        def wide(count, start=0):
            return (None, None, None, start + count * self.channels)

        for pool in self.pools:
            pool.build(last)
        self.bottleneck.build(wide(len(self.pools), last[-1]))
        for lateral, smooth, shape in zip(self.laterals, self.smooths, below, strict=True):
            lateral.build(shape)
            smooth.build(wide(1))
        self.fusion.build(wide(self.levels))
        self.classifier.build(wide(1))

    def call(self, maps, training=None):
        *below, last = maps
        sizes = [tuple(ops.shape(x)[1:3]) for x in maps]
        pools = [
            resized(pool(pooled(last, bins), training=training), sizes[-1])
            for pool, bins in zip(self.pools, self.pool_scales, strict=True)
        ]
        levels = [self.bottleneck(ops.concatenate([last, *pools], axis=-1), training=training)]
        top = levels[0]
        for level in reversed(range(len(below))):
            top = self.laterals[level](below[level], training=training) + resized(top, sizes[level])
            levels.insert(0, self.smooths[level](top, training=training))
        x = self.fusion(ops.concatenate([resized(x, sizes[0]) for x in levels], axis=-1), training=training)
        return self._classified(x, training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[0][:-1], self.classifier.units)

    def get_config(self):
        return {**super().get_config(), "levels": self.levels, "pool_scales": self.pool_scales}


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class FCNHead(_Head):
    """One convolution and a classifier: the auxiliary head, which trains the backbone alone.

    Args:
        classes, channels, dropout, synchronized: as in `UPerHead`.
    Shapes:
        (B, H, W, C) -> (B, H, W, classes)
    Source:
        mmsegmentation, decode_heads/fcn_head.py with one convolution and no concatenation.
    """

    def __init__(self, classes, channels=256, dropout=0.1, synchronized=False, *, parts=None, **kwargs):
        super().__init__(classes, channels, dropout, synchronized, parts, **kwargs)
        self.conv = self._convolution("conv")
        self.restore()

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.classifier.build((*input_shape[:-1], self.channels))

    def call(self, inputs, training=None):
        return self._classified(self.conv(inputs, training=training), training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.classifier.units)
