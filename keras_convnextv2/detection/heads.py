"""The heads of a detector: where objects may be, what they are, their masks."""

import math

import keras
from keras import ops

from keras_convnextv2.detection.arrays import count_of
from keras_convnextv2.layers import Dense
from keras_convnextv2.layers.composite import Composite, plain
from keras_convnextv2.layers.conv import PatchConv2DTranspose, convolution
from keras_convnextv2.layers.dense import checked_names
from keras_convnextv2.layers.initial import InitialNormal


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class RPNHead(Composite):
    """The region proposal network: at each position, for each anchor, whether there is an object, and where.

    Args:
        anchors: at a position.
        dim: channels of its convolution.
        channels: of the maps.
    Shapes:
        (B, H, W, channels) -> (B, H, W, anchors) logits and (B, H, W, 4 * anchors) changes, anchor by anchor; float32
    Source:
        Ren et al. 2015; mmdetection, dense_heads/rpn_head.py.
    """

    def __init__(self, anchors=3, dim=256, channels=256, *, parts=None, **kwargs):
        super().__init__(parts=parts, **kwargs)
        self.anchors, self.dim, self.channels = plain(anchors), plain(dim), plain(channels)
        kinds = {"deviation": 0.01, "dtype": self.dtype_policy}
        self.conv = convolution(self.dim, 3, name="conv", activation="relu", **kinds)
        self.objects = convolution(self.anchors, 1, name="objects", **kinds)
        self.deltas = convolution(4 * self.anchors, 1, name="deltas", **kinds)
        self.restore()

    def build(self, input_shape):
        self.conv.build(input_shape)
        for layer in (self.objects, self.deltas):
            layer.build((*input_shape[:-1], self.dim))

    def call(self, inputs):
        x = self.conv(inputs)
        return ops.cast(self.objects(x), "float32"), ops.cast(self.deltas(x), "float32")

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.anchors), (*input_shape[:-1], 4 * self.anchors)

    def get_config(self):
        own = {"anchors": self.anchors, "dim": self.dim, "channels": self.channels}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class BoxHead(Composite):
    """What is in a region, and where exactly.

    Args:
        classes: a number, or a name for each; without the background, which is the last logit.
        dim: of its two dense layers.
        features: (size, size, channels) of a region.
    Shapes:
        (B, N, size, size, channels) -> (B, N, classes + 1) logits and (B, N, classes, 4) changes; float32
    Source:
        mmdetection, bbox_heads/convfc_bbox_head.py (Shared2FCBBoxHead).
    """

    def __init__(self, classes, dim=1024, features=(7, 7, 256), *, parts=None, **kwargs):
        super().__init__(parts=parts, **kwargs)
        self.classes, self.dim, self.features = plain(classes), plain(dim), plain(features)
        self.class_names = None if isinstance(self.classes, int) else checked_names(self.classes, len(self.classes))
        self.count = count_of(self.classes)
        width = math.prod(self.features)
        self.fc_0 = self._dense("fc_0", self.dim, math.sqrt(2 / (width + self.dim)), activation="relu")
        self.fc_1 = self._dense("fc_1", self.dim, math.sqrt(1 / self.dim), activation="relu")
        self.classifier = self._dense("classifier", self.count + 1, 0.01)
        self.deltas = self._dense("deltas", 4 * self.count, 0.001)
        self.restore()

    def _dense(self, name, units, deviation, **options):
        return Dense(units, kernel_initializer=InitialNormal(deviation), dtype=self.dtype_policy, name=name, **options)

    def build(self, input_shape):
        self.fc_0.build((None, None, math.prod(self.features)))
        for layer in (self.fc_1, self.classifier, self.deltas):
            layer.build((None, None, self.dim))

    def call(self, inputs):
        number = ops.shape(inputs)[1]
        x = ops.reshape(inputs, (-1, number, math.prod(self.features)))
        x = self.fc_1(self.fc_0(x))
        deltas = ops.reshape(self.deltas(x), (-1, number, self.count, 4))
        return ops.cast(self.classifier(x), "float32"), ops.cast(deltas, "float32")

    def compute_output_shape(self, input_shape):
        return (*input_shape[:2], self.count + 1), (*input_shape[:2], self.count, 4)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "dim": self.dim, "features": self.features}


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class MaskHead(Composite):
    """The mask of a region, for each class that it may be of.

    Args:
        classes: how many.
        dim: channels of its convolutions.
        convs: how many of 3 x 3.
        channels: of a region's features.
    Shapes:
        (B, N, size, size, channels) -> (B, N, 2 * size, 2 * size, classes) logits, float32
    Source:
        He et al. 2017 (Mask R-CNN), figure 4; mmdetection, mask_heads/fcn_mask_head.py.
    """

    def __init__(self, classes, dim=256, convs=4, channels=256, *, parts=None, **kwargs):
        super().__init__(parts=parts, **kwargs)
        self.classes, self.dim, self.convs, self.channels = map(plain, (classes, dim, convs, channels))
        deviation = math.sqrt(2 / (9 * self.dim))  # He's, by the fan out
        kinds = {"activation": "relu", "dtype": self.dtype_policy}
        self.convolutions = [convolution(self.dim, 3, deviation, f"conv_{n}", **kinds) for n in range(self.convs)]
        self.upsample = PatchConv2DTranspose(
            self.dim,
            2,
            strides=2,
            data_format="channels_last",
            kernel_initializer=InitialNormal(math.sqrt(2 / (4 * self.dim))),
            name="upsample",
            **kinds,
        )
        self.classifier = convolution(self.classes, 1, 0.01, "classifier", self.dtype_policy)
        self.restore()

    def build(self, input_shape):
        _, _, height, width, channels = input_shape
        for layer in self.convolutions:
            layer.build((None, height, width, channels))
            channels = self.dim
        self.upsample.build((None, height, width, channels))
        self.classifier.build((None, 2 * height, 2 * width, self.dim))

    def call(self, inputs):
        _, count, height, width, channels = ops.shape(inputs)
        x = ops.reshape(inputs, (-1, height, width, channels))
        for layer in self.convolutions:
            x = layer(x)
        x = self.classifier(self.upsample(x))
        return ops.cast(ops.reshape(x, (-1, count, 2 * height, 2 * width, self.classes)), "float32")

    def compute_output_shape(self, input_shape):
        batch, count, height, width, _ = input_shape
        return (batch, count, 2 * height, 2 * width, self.classes)

    def get_config(self):
        own = {"classes": self.classes, "dim": self.dim, "convs": self.convs, "channels": self.channels}
        return {**super().get_config(), **own}
