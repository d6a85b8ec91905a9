"""Mask R-CNN: a detector of objects and their masks around a backbone."""

import functools

import keras
import numpy as np
from keras import ops

from keras_convnextv2 import kernels
from keras_convnextv2.backbone import pyramid
from keras_convnextv2.detection import losses
from keras_convnextv2.detection.arrays import count_of, known, vector
from keras_convnextv2.detection.boxes import decode, encode, select
from keras_convnextv2.detection.heads import BoxHead, MaskHead, RPNHead
from keras_convnextv2.detection.neck import FPN
from keras_convnextv2.detection.proposals import IGNORED, RATIOS, anchors, assign, proposals_of, sample
from keras_convnextv2.detection.roi import mask_targets, roi_align
from keras_convnextv2.kernels.lengths import least_length, of_those_in_front
from keras_convnextv2.layers.composite import apply_settings, plain, settings_of
from keras_convnextv2.layers.network import network_layers, stages_of, total_stride
from keras_convnextv2.portable import AroundBackbone

BOX_SIZE, MASK_SIZE = 7, 14  # cells along a side of a region; a mask has twice as many positions
STDS = (0.1, 0.1, 0.2, 0.2)  # of the box head's changes
RPN_RULE = {"positive": 0.7, "negative": 0.3, "least": 0.3, "low_quality": True}
ROI_RULE = {"positive": 0.5, "negative": 0.5, "least": 0.5}
RPN_SHARE, ROI_SHARE = 0.5, 0.25  # of the samples that may belong to objects
TARGETS = ("boxes", "classes", "valid", "masks", "mask_boxes")
SETTINGS = (
    *("masks", "fpn_dim", "rpn_dim", "box_dim", "mask_dim", "mask_convs", "sampling_ratio", "proposals"),
    *("max_detections", "score_threshold", "nms_threshold", "soft_nms", "rpn_samples", "roi_samples", "seed"),
)


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class MaskRCNN(AroundBackbone, keras.Model):
    """Mask R-CNN around a ConvNeXt V2; with `masks=False` Faster R-CNN.

    Called with images, or {"images", "sizes"}, it returns what it found: {"boxes" (B, N, 4) float32 in pixels of the
    images, "scores" (B, N), "classes" (B, N) int32, "count" (B,) int32, "masks" (B, N, 28, 28): probabilities inside of
    each box}, N = max_detections, the best first, filled up with zeros and class -1.

    `fit` takes images and targets; `compile(optimizer)` without a loss trains by the reference's. Targets are
    {"boxes" (B, M, 4), "classes" (B, M) int, "valid" (B, M) bool: which of the M are objects, "masks" (B, M, H, W): 0
    or 1}; with "mask_boxes" (B, M, 4) a mask, then of any size, lies in that region of the picture.
    Called with `training=True` it returns the maps, for the loss.

    Args:
        backbone: made by `ConvNeXtV2` or one of the constructors, whose weights are shared and whose head is not used;
            or its `pyramid(..., norm=True)`.
        classes: how many, without the background, or a name for each.
        masks: whether masks are found as well.
        fpn_dim: channels of the feature pyramid.
        rpn_dim: of the region proposal network.
        box_dim: of the dense layers that say what a region is.
        mask_dim, mask_convs: channels and number of the mask head's convolutions.
        sampling_ratio: samples along a side of a cell of a region.
        proposals: regions that are looked at.
        max_detections: N.
        score_threshold: lowest score of a detection.
        nms_threshold: overlap above which the worse of two detections of a class goes.
        soft_nms: lower its score instead.
        rpn_samples, roi_samples: boxes of a picture that the two stages are trained on.
        seed: of the choice of samples.
    Raises:
        ValueError: a backbone without its network or of one stage, a number out of its range; by the loss: targets that
            lack something, masks of another size, classes that are none (compiled, such objects are left out).
    Shapes:
        images (B, H, W, C) of any size that the backbone takes. sizes (B, 2): the true (height, width) of pictures that
        are filled up at their right and bottom.
    Units:
        images 0..255 if the backbone includes preprocessing, else already normalised.
    Source:
        He et al. 2017; ConvNeXt V2, appendix A.3; mmdetection 3.3, whose numbers it has.
    """

    averages_samples = True  # its losses are averages over what was sampled, not over pictures

    def __init__(
        self,
        backbone,
        classes,
        *,
        masks=True,
        fpn_dim=256,
        rpn_dim=256,
        box_dim=1024,
        mask_dim=256,
        mask_convs=4,
        sampling_ratio=2,
        proposals=1000,
        max_detections=100,
        score_threshold=0.05,
        nms_threshold=0.5,
        soft_nms=False,
        rpn_samples=256,
        roi_samples=512,
        seed=None,
        name="mask_rcnn",
        dtype=None,
        parts=None,
        **kwargs,
    ):
        *others, last = stages_of(backbone)
        if not others:
            raise ValueError("MaskRCNN needs a backbone of two stages at least. Received: one of 1.")
        super().__init__(name=name, dtype=dtype or last.dtype_policy, **kwargs)
        given = locals()
        for setting in ("classes", *SETTINGS):
            setattr(self, setting, plain(given[setting]))
        self._check()
        self.backbone = backbone if "norm_0" in network_layers(backbone) else pyramid(backbone, norm=True)
        self.autocast = False  # pictures stay whole until the stem, logits until the loss
        self.seeds = keras.random.SeedGenerator(self.seed)
        shapes = [tuple(x.shape) for x in self.backbone.outputs]
        first = network_layers(backbone)["stem"].patch_size
        self.strides = [first * 2**n for n in range(len(shapes) + 1)]
        count, options = count_of(self.classes), {"dtype": self.dtype_policy}
        features = (BOX_SIZE, BOX_SIZE, self.fpn_dim)
        self.neck = FPN([shape[-1] for shape in shapes], self.fpn_dim, name="neck", **options)
        self.rpn_head = RPNHead(len(RATIOS), self.rpn_dim, self.fpn_dim, name="rpn_head", **options)
        self.box_head = BoxHead(self.classes, self.box_dim, features, name="box_head", **options)
        self.mask_head = None
        if self.masks:
            self.mask_head = MaskHead(count, self.mask_dim, self.mask_convs, self.fpn_dim, name="mask_head", **options)
        apply_settings(self, self.heads, parts)
        self.neck.build(shapes)
        self.rpn_head.build((None, None, None, self.fpn_dim))
        self.box_head.build((None, None, *features))
        if self.mask_head:
            self.mask_head.build((None, None, MASK_SIZE, MASK_SIZE, self.fpn_dim))
        self.built = True

    @property
    def heads(self):
        """The layers beside the backbone.

        The name stands in `.weights.h5` files: Keras finds lists of layers by their attributes.
        """
        return [head for head in (self.neck, self.rpn_head, self.box_head, self.mask_head) if head]

    @property
    def least_side(self):
        """Pixels that a picture must have along each side."""
        return total_stride(self)

    def call(self, inputs, training=None):
        images, sizes = self._split(inputs)
        maps = self.maps(images, training=training)
        return maps if training else self._detected(list(maps.values()), sizes)

    def maps(self, images, training=False):
        """(B, H, W, C) -> {"P2": (B, H / 4, W / 4, fpn_dim), ..., "P6"}: what the heads look at."""
        maps = self.neck(list(self.backbone(images, training=training).values()))
        return {f"P{n}": x for n, x in enumerate(maps, 2)}

    def losses_of(self, images, targets, *, proposals=None, training=None):
        """The losses by their names in the reference, each (B,) float32: the shares of each picture.

        Their means over the batch are the reference's losses: averages over all samples of the batch.

        Args:
            images: or {"images", "sizes"}.
            targets: as in `fit`.
            proposals: (boxes (B, P, 4), valid (B, P)) in the place of the network's own.
        Returns:
            {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"}, the last one with `masks`
        """
        images, sizes = self._split(images)
        objects = self._objects(targets, images)
        maps = list(self.maps(images, training=training).values())
        return self._all_losses(maps, sizes, objects, proposals)

    def sample_losses(self, images, targets, training=None):
        """The sum of `losses_of`, (B,)."""
        return sum(self.losses_of(images, targets, training=training).values())

    def fit(self, x=None, y=None, *args, **kwargs):
        if isinstance(y, dict) and {"classes", "valid"} <= set(y):  # all at once, before a compiler hides their values
            _require_classes(y["classes"], y["valid"], count_of(self.classes))
        return super().fit(x, y, *args, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if "P2" in y_pred:
            images, sizes = self._split(x)
            losses = self._all_losses(list(y_pred.values()), sizes, self._objects(y, images))
        else:
            losses = self.losses_of(x, y)
        losses = sum(losses.values())
        if sample_weight is not None:  # Keras hands one over for each of the targets
            weight = keras.tree.flatten(sample_weight)[0]
            losses = losses * ops.reshape(ops.cast(weight, losses.dtype), (-1,))
        return kernels.share_of_replica(ops.mean(losses) + sum(self.losses))

    def _split(self, inputs):
        """(images, their true sizes (B, 2) float32)."""
        images = inputs["images"] if isinstance(inputs, dict) else inputs
        images = ops.convert_to_tensor(images)
        sizes = inputs.get("sizes") if isinstance(inputs, dict) else None
        if sizes is None:
            batch, height, width, _ = ops.shape(images)
            return images, ops.ones((batch, 1)) * vector((height, width), "float32")
        return images, ops.cast(sizes, "float32")

    def _objects(self, targets, images):
        return _objects(targets, images.shape[1:3], count_of(self.classes), self.masks)

    # Detection

    def _detected(self, maps, sizes):
        logits, deltas = self._asked(maps)
        boxes, _, there = proposals_of(logits, deltas, self._anchors(maps), sizes, count=self.proposals)
        logits, deltas = self.box_head(self._features(maps, boxes, BOX_SIZE))
        scores = ops.softmax(logits, axis=-1)[..., :-1] * ops.cast(there, "float32")[..., None]
        found = select(
            decode(boxes[:, :, None], deltas, STDS, sizes[:, None, None]),
            scores,
            self.max_detections,
            threshold=self.score_threshold,
            overlap=self.nms_threshold,
            soft=self.soft_nms,
        )
        del found["rows"]
        if self.mask_head:
            masks = self.mask_head(self._features(maps, found["boxes"], MASK_SIZE))
            of_class = ops.maximum(found["classes"], 0)[:, :, None, None, None]
            masks = ops.sigmoid(ops.take_along_axis(masks, of_class, axis=-1)[..., 0])
            found["masks"] = ops.where((found["classes"] >= 0)[:, :, None, None], masks, 0.0)
        return found

    def _asked(self, maps):
        """What the region proposal network says of each map: (logits, changes)."""
        return zip(*map(self.rpn_head, maps), strict=True)

    def _anchors(self, maps):
        return anchors([ops.shape(x)[1:3] for x in maps], self.strides)

    def _features(self, maps, boxes, size):
        return roi_align(maps[:-1], boxes, self.strides[:-1], size, self.sampling_ratio)

    # Training

    def _all_losses(self, maps, sizes, objects, proposals=None):
        logits, deltas = (list(x) for x in self._asked(maps))
        base = self._anchors(maps)
        found = self._rpn_losses(logits, deltas, base, maps, sizes, objects)
        if proposals is None:
            before = 2 * self.proposals
            boxes, _, there = proposals_of(logits, deltas, base, sizes, count=self.proposals, before=before)
        else:
            boxes, there = map(ops.convert_to_tensor, proposals)
        return found | self._roi_losses(maps, boxes, there, objects)

    def _rpn_losses(self, logits, deltas, base, maps, sizes, objects):
        cells = _cells_inside(maps, self.strides, sizes)
        base = ops.concatenate(base, axis=0)
        assigned, _ = assign(objects["boxes"], objects["valid"], base, candidates=cells, **RPN_RULE)
        chosen, positive, valid = self._sampled(assigned, self.rpn_samples, RPN_SHARE)
        logits = ops.concatenate([ops.reshape(x, (ops.shape(x)[0], -1)) for x in logits], axis=1)
        deltas = ops.concatenate([ops.reshape(x, (ops.shape(x)[0], -1, 4)) for x in deltas], axis=1)
        logits = ops.take_along_axis(logits, chosen, axis=1)
        deltas = ops.take_along_axis(deltas, chosen[..., None], axis=1)
        _, boxes = _of_chosen(objects["boxes"], assigned, chosen)
        wanted = encode(ops.take(base, chosen, axis=0), _safe(boxes, positive))
        return losses.rpn_losses(logits, deltas, wanted, positive, valid)

    def _roi_losses(self, maps, boxes, there, objects):
        # low quality where there are masks: mmdetection's configs of Mask R-CNN and of Faster R-CNN differ in it
        assigned, _ = assign(
            objects["boxes"], objects["valid"], boxes, candidates=there, low_quality=self.masks, **ROI_RULE
        )
        numbers = ops.arange(1, ops.shape(objects["boxes"])[1] + 1, dtype="int32")[None]
        own = ops.where(objects["valid"], numbers, IGNORED)
        assigned = ops.concatenate([own, assigned], axis=1)  # the objects themselves stand in front
        boxes = ops.stop_gradient(ops.concatenate([objects["boxes"], ops.cast(boxes, "float32")], axis=1))
        chosen, positive, valid = self._sampled(assigned, self.roi_samples, ROI_SHARE)
        boxes = ops.take_along_axis(boxes, chosen[..., None], axis=1)
        object_, of_object = _of_chosen(objects["boxes"], assigned, chosen)
        classes = ops.take_along_axis(objects["classes"], object_, axis=1)
        wanted = encode(_safe(boxes, positive), _safe(of_object, positive), STDS)
        logits, deltas = self.box_head(self._features(maps, boxes, BOX_SIZE))
        found = losses.box_losses(logits, deltas, classes, wanted, positive, valid)
        if self.mask_head:
            most = max(1, int(self.roi_samples * ROI_SHARE))  # they stand in front
            rows = [x[:, :most] for x in (positive, boxes, object_, classes)]
            errors = of_those_in_front(functools.partial(self._mask_errors, maps, objects), rows[0], *rows)
            found["loss_mask"] = losses.mask_loss(errors, rows[0])
        return found

    def _mask_errors(self, maps, objects, positive, boxes, object_, classes):
        logits = self.mask_head(self._features(maps, boxes, MASK_SIZE))
        boxes = ops.where(positive[..., None], boxes, 0.0)  # a background's region could be any size in a mask
        masks = mask_targets(objects["masks"], objects["mask_boxes"], boxes, object_, 2 * MASK_SIZE)
        return losses.mask_errors(logits, classes, masks, positive)

    def _sampled(self, assigned, count, share):
        draws = keras.random.uniform(ops.shape(assigned), seed=self.seeds)
        return sample(assigned, count, share, draws)

    def _check(self):
        if not isinstance(self.classes, int | tuple) or count_of(self.classes) < 1:
            raise ValueError(f"classes must be a positive int, or names. Received: {self.classes!r}.")
        whole = ("fpn_dim", "rpn_dim", "box_dim", "mask_dim", "sampling_ratio", "proposals", "max_detections")
        for setting in (*whole, "rpn_samples", "roi_samples"):
            if not isinstance(value := getattr(self, setting), int) or value < 1:
                raise ValueError(f"{setting} must be a positive int. Received: {value!r}.")
        if self.mask_convs < 0:
            raise ValueError(f"mask_convs must be at least 0. Received: {self.mask_convs!r}.")
        for setting in ("score_threshold", "nms_threshold"):
            if not 0 <= (value := getattr(self, setting)) <= 1:
                raise ValueError(f"{setting} must be in 0..1. Received: {value!r}.")

    def get_config(self):
        config = {name: getattr(self, name) for name in ("classes", *SETTINGS)}
        config |= {"name": self.name, "trainable": self.trainable, "parts": settings_of(self, self.heads)}
        config["dtype"] = keras.saving.serialize_keras_object(self.dtype_policy)
        return {**config, "backbone": keras.saving.serialize_keras_object(self.backbone)}


def _objects(targets, size, count, masks):
    """The targets as tensors of the kinds that the losses take; a mask without a region covers all of the picture."""
    if not isinstance(targets, dict):
        raise ValueError(f"targets must be a dict of {', '.join(TARGETS)}. Received: {type(targets).__name__}.")
    found = {name: ops.convert_to_tensor(x) for name, x in targets.items() if name in TARGETS}
    if lacking := {"boxes", "classes", "valid", *(["masks"] if masks else [])} - set(found):
        raise ValueError(f"targets must have boxes, classes, valid, and masks for masks. Lacking: {sorted(lacking)}.")
    kinds = {"boxes": "float32", "classes": "int32", "valid": "bool"}
    found |= {name: ops.cast(found[name], kind) for name, kind in kinds.items()}
    _require_classes(found["classes"], found["valid"], count)
    found["valid"] = found["valid"] & ops.all(found["boxes"][..., 2:] > found["boxes"][..., :2], axis=-1)
    found["valid"] = found["valid"] & (found["classes"] >= 0) & (found["classes"] < count)  # `count` is the background
    if found["boxes"].shape[1] in (0, None):  # perhaps of no picture an object: a place for one, which is none
        found = {name: ops.pad(x, [(0, 0), (0, 1), *[(0, 0)] * (len(x.shape) - 2)]) for name, x in found.items()}
    last = least_length(found["valid"])
    found = {name: x[:, :last] for name, x in found.items()}
    if masks:
        found["masks"] = ops.cast(found["masks"], "float32") > 0  # of bits, of 0 and 1 or of 0 and 255
    if masks and "mask_boxes" not in found:
        height, width = ops.shape(found["masks"])[2:]
        if None not in (*size, *found["masks"].shape[2:]) and tuple(found["masks"].shape[2:]) != tuple(size):
            rule = f"masks without mask_boxes must have the size of the images, {tuple(size)}"
            raise ValueError(f"{rule}. Received: {tuple(found['masks'].shape[2:])}.")
        whole = vector((0, 0, width, height), "float32")
        found["mask_boxes"] = ops.zeros_like(found["boxes"]) + whole
    return found


def _require_classes(classes, valid, count):
    """Raises for the first object of another class than 0 .. count - 1, where values are known."""
    classes, valid = known(classes), known(valid)
    if classes is None or valid is None:
        return
    if np.ndim(classes) != 2 or classes.shape != valid.shape:
        raise ValueError(f"classes and valid must both be (B, M). Received: {classes.shape} and {valid.shape}.")
    wrong = valid.astype(bool) & ((classes < 0) | (classes >= count))
    for picture, number in np.argwhere(wrong)[:1]:
        rule = f"classes must be in 0..{count - 1}, counted from 0"
        raise ValueError(f"{rule}. Received: {classes[picture, number]}, picture {picture}, object {number}.")


def _cells_inside(maps, strides, sizes):
    """(B, N) bool: the anchors whose cell lies in the picture, its size rounded up to the largest stride of a stage."""
    round_to = strides[-2]
    sides = ops.ceil(sizes / round_to) * round_to
    inside = []
    for x, stride in zip(maps, strides, strict=True):
        limits = ops.ceil(sides / stride)
        rows, columns = (
            ops.arange(n, dtype="float32")[None] < limits[:, axis, None] for axis, n in enumerate(ops.shape(x)[1:3])
        )
        cells = ops.reshape(rows[:, :, None] & columns[:, None], (ops.shape(sizes)[0], -1))
        inside.append(ops.repeat(cells, len(RATIOS), axis=1))
    return ops.concatenate(inside, axis=1)


def _of_chosen(objects, assigned, chosen):
    """Of chosen boxes the number of their object, (B, n), and its box, (B, n, 4); of the background the first one."""
    number = ops.maximum(ops.take_along_axis(assigned, chosen, axis=1) - 1, 0)
    return number, ops.take_along_axis(objects, number[..., None], axis=1)


def _safe(boxes, positive):
    """The boxes, and in the place of those that do not count one that can be encoded."""
    return ops.where(positive[..., None], boxes, ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0]))
