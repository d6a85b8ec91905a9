"""UPerNet: a semantic segmenter around a backbone."""

import keras
from keras import ops

from keras_convnextv2 import kernels
from keras_convnextv2.backbone import pyramid
from keras_convnextv2.kernels.resampling import resized
from keras_convnextv2.layers.composite import apply_settings, plain, settings_of
from keras_convnextv2.layers.network import network_layers, stages_of, total_stride
from keras_convnextv2.portable import AroundBackbone
from keras_convnextv2.segmentation.heads import FCNHead, UPerHead
from keras_convnextv2.segmentation.losses import AVERAGES, pixel_loss

AUXILIARY_WEIGHT = 0.4  # mmsegmentation, configs/_base_/models/upernet_convnext.py


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class UPerNet(AroundBackbone, keras.Model):
    """UPerNet around a ConvNeXt V2: a class for each pixel.

    `fit` takes images with label maps (B, H, W) or (B, H, W, 1); `compile(optimizer)` without a loss trains by the
    reference's: cross-entropy of the head plus 0.4 times that of the auxiliary head, labels of `ignore` left out. A
    label that is no class is an error where values can be read: on PyTorch, and with `run_eagerly=True`; in a function
    that TensorFlow or JAX compiles it makes the loss NaN, while its pixel trains nothing.
    Keras' own metrics count all pixels: for "accuracy" those of `ignore` are mistakes. `segmentation.ConfusionMatrix`
    leaves them out.
    Called with `training=True` it returns what `logits` returns, for the loss.

    Args:
        backbone: made by `ConvNeXtV2` or one of the constructors, whose weights are shared and whose head is not used;
            or its `pyramid(..., norm=True)`.
        classes: how many, or a name for each.
        channels: of the head's convolutions.
        pool_scales: bins along a side of the pyramid pooling.
        auxiliary_channels: of the auxiliary head on the last map but one; 0 leaves it out.
        dropout: probability that a channel is dropped in front of a classifier.
        synchronized: batch statistics over all replicas of TensorFlow (JAX has them by itself). It is a choice of the
            machine that trains and not kept in a file.
        ignore: the label of pixels that do not count.
        average: what the loss is divided by, the number of "all" pixels (mmsegmentation) or of "valid" ones
            (transformers), which are those of what is worked off at once: of a part of a batch, of a replica.
    Raises:
        ValueError: a backbone without its network, or of one stage; by the loss: labels of another size than images
            or outside of the classes, a weight for each pixel (`ignore` marks those that do not count) or for
            each class.
    Shapes:
        images (B, H, W, C) -> logits (B, H, W, classes) float32
    Units:
        images 0..255 if the backbone includes preprocessing, else already normalised.
    Source:
        Xiao et al. 2018; ConvNeXt V2, appendix A.4; mmsegmentation's configs of ConvNeXt.
    """

    def __init__(
        self,
        backbone,
        classes,
        *,
        channels=512,
        pool_scales=(1, 2, 3, 6),
        auxiliary_channels=256,
        dropout=0.1,
        synchronized=False,
        ignore=255,
        average="all",
        name="upernet",
        dtype=None,
        parts=None,
        **kwargs,
    ):
        *others, last = stages_of(backbone)
        if not others:
            raise ValueError("UPerNet needs a backbone of two stages at least. Received: one of 1.")
        super().__init__(name=name, dtype=dtype or last.dtype_policy, **kwargs)
        self.classes, self.channels, self.pool_scales = plain(classes), plain(channels), plain(pool_scales)
        self.auxiliary_channels, self.dropout, self.ignore = plain(auxiliary_channels), plain(dropout), plain(ignore)
        self.average = average
        self.synchronized = bool(synchronized)
        self._check()
        self.backbone = backbone if "norm_0" in network_layers(backbone) else pyramid(backbone, norm=True)
        self.autocast = False  # pictures stay whole until the stem, logits until the loss
        shapes = [tuple(x.shape) for x in self.backbone.outputs]  # from P2 on
        options = {"dropout": self.dropout, "synchronized": self.synchronized, "dtype": self.dtype_policy}
        self.decode_head = UPerHead(
            self.classes, self.channels, len(shapes), self.pool_scales, name="decode_head", **options
        )
        self.auxiliary_head = None
        if self.auxiliary_channels:
            self.auxiliary_head = FCNHead(self.classes, self.auxiliary_channels, name="auxiliary_head", **options)
        apply_settings(self, self.heads, parts)
        self.decode_head.build(shapes)
        if self.auxiliary_head:
            self.auxiliary_head.build(shapes[-2])
        self.built = True

    @property
    def heads(self):
        """The layers beside the backbone."""
        return [head for head in (self.decode_head, self.auxiliary_head) if head]

    @property
    def least_side(self):
        """(height, width): pixels that a picture must have, of a backbone of one size that size."""
        return tuple(side or total_stride(self) for side in self.backbone.inputs[0].shape[1:3])

    def call(self, images, training=None):
        logits = self.logits(images, training=training)
        return logits if training else resized(logits["main"], ops.shape(images)[1:3])

    def logits(self, images, training=False):
        """(B, H, W, C) -> {"main": (B, H / 4, W / 4, classes), "auxiliary": (B, H / 16, W / 16, classes)}, float32.

        Without an auxiliary head only the first; strides are those of a stem with patches of 4.
        """
        maps = list(self.backbone(images, training=training).values())
        found = {"main": self.decode_head(maps, training=training)}
        if self.auxiliary_head:
            found["auxiliary"] = self.auxiliary_head(maps[-2], training=training)
        return {name: ops.cast(x, "float32") for name, x in found.items()}

    def sample_losses(self, images, labels, training=None):
        """The loss of each picture, (B,) float32; its mean is the loss of the batch."""
        _require_same_size(images, labels)
        return self._weighed(self.logits(images, training=training), labels)

    def _weighed(self, logits, labels):
        options = {"ignore": self.ignore, "average": self.average}
        losses = pixel_loss(logits["main"], labels, **options)
        if "auxiliary" in logits:
            losses = losses + AUXILIARY_WEIGHT * pixel_loss(logits["auxiliary"], labels, **options)
        return losses

    def fit(self, *arguments, class_weight=None, **options):
        """As every Keras model's, without weights of classes, which Keras knows for whole pictures alone."""
        if class_weight is not None:
            rule = "class_weight must be None: a picture has many classes, and sample_weight is one number a picture"
            raise ValueError(f"{rule}. Received: {class_weight!r}.")
        return super().fit(*arguments, **options)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        logits = y_pred if isinstance(y_pred, dict) else {"main": y_pred}
        if self._compile_loss is not None:  # the user's own, in the place of the cross-entropy
            size = ops.shape(x)[1:3]
            loss = super().compute_loss(x, y, resized(logits["main"], size), sample_weight, training)
            if "auxiliary" in logits:
                auxiliary = self._compile_loss(y, resized(logits["auxiliary"], size), sample_weight)
                loss = loss + AUXILIARY_WEIGHT * auxiliary
            return loss
        if x is not None:
            _require_same_size(x, y)
        self._require_classes(y)
        losses = self._weighed(logits, y)
        if sample_weight is not None:
            if len(sample_weight.shape) > 1:
                rule = "sample_weight must be one number a picture, (batch,); pixels that do not count"
                raise ValueError(f"{rule} have the label {self.ignore}. Received: shape {tuple(sample_weight.shape)}.")
            losses = losses * ops.cast(sample_weight, losses.dtype)
        return kernels.share_of_replica(ops.mean(losses) + sum(self.losses))

    def _require_classes(self, labels):
        if not kernels.is_known(labels):
            return
        values, count = ops.convert_to_numpy(labels), self.decode_head.classifier.units
        bad = values[(values != self.ignore) & ~((0 <= values) & (values < count))]
        if bad.size:
            raise ValueError(f"labels must be in 0..{count - 1} or {self.ignore}. Received: {bad[0]}.")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if isinstance(y_pred, dict):
            y_pred = resized(y_pred["main"], ops.shape(x)[1:3])
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _check(self):
        if self.average not in AVERAGES:
            raise ValueError(f"average must be one of {', '.join(map(repr, AVERAGES))}. Received: {self.average!r}.")
        if not self.pool_scales or min(self.pool_scales) < 1:
            raise ValueError(f"pool_scales must be positive numbers. Received: {self.pool_scales!r}.")
        if not isinstance(self.classes, int | tuple) or isinstance(self.classes, int) and self.classes < 1:
            raise ValueError(f"classes must be a positive int, or names. Received: {self.classes!r}.")
        count = self.classes if isinstance(self.classes, int) else len(self.classes)
        if 0 <= self.ignore < count:
            raise ValueError(f"ignore must be none of the classes 0..{count - 1}. Received: {self.ignore!r}.")
        if self.channels < 1 or self.auxiliary_channels < 0:
            sizes = f"channels={self.channels!r}, auxiliary_channels={self.auxiliary_channels!r}"
            raise ValueError(f"channels must be positive, auxiliary_channels at least 0. Received: {sizes}.")

    def get_config(self):
        own = ("classes", "channels", "pool_scales", "auxiliary_channels", "dropout", "ignore", "average")
        config = {name: getattr(self, name) for name in own}
        config |= {"name": self.name, "trainable": self.trainable, "parts": settings_of(self, self.heads)}
        config["dtype"] = keras.saving.serialize_keras_object(self.dtype_policy)
        return {**config, "backbone": keras.saving.serialize_keras_object(self.backbone)}


def _require_same_size(images, labels):
    """Labels of another size would be taken without a word, since logits are brought to it."""
    received = "none" if labels is None else f"shape {tuple(labels.shape)}"
    if labels is None or len(labels.shape) > 3 and labels.shape[3:] != (1,):
        rule = "labels must be the number of a class for each pixel, (B, H, W) or (B, H, W, 1)"
        raise ValueError(f"{rule}. Received: {received}.")
    sizes = [tuple(x.shape[1:3]) for x in (images, labels)]
    same = len(sizes[1]) == 2 and all(None in pair or pair[0] == pair[1] for pair in zip(*sizes, strict=True))
    if not same:
        rule = f"labels must have the size of the images, (height, width) = {sizes[0]}"
        raise ValueError(f"{rule}. Received: {received}.")
