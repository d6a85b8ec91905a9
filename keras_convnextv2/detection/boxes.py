"""Boxes as arrays: (..., 4), x1, y1, x2, y2 in pixels, continuous: a width is x2 - x1. Sizes are (height, width)."""

import math

from keras import ops

from keras_convnextv2.detection.arrays import of_arrays
from keras_convnextv2.kernels.table import compiled_where_eager

LONGEST = math.log(1000 / 16)  # of a decoded logarithm of a side's change
TINY = 1e-6  # in the place of an empty union


@of_arrays
def area(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


@of_arrays
def overlaps(boxes, others, of="union"):
    """(..., N, 4), (..., M, 4) -> (..., N, M): the intersections as shares of the "union" or of the "first" box."""
    boxes, others = ops.expand_dims(boxes, -2), ops.expand_dims(others, -3)
    # side by side, without the axis of coordinates: these are the largest arrays of a training step
    width, height = (
        ops.minimum(boxes[..., n + 2], others[..., n + 2]) - ops.maximum(boxes[..., n], others[..., n]) for n in (0, 1)
    )
    common = ops.relu(width) * ops.relu(height)
    whole = area(boxes)
    if of == "union":
        whole = whole + area(others) - common
    return common / ops.maximum(whole, TINY)


@of_arrays
def encode(boxes, targets, stds=(1.0, 1.0, 1.0, 1.0)):
    """What `decode` makes `targets` of, beginning at `boxes`; both (..., 4).

    Source:
        Girshick et al. 2014 (R-CNN), appendix C; mmdetection's DeltaXYWHBBoxCoder.
    """
    (centre, sides), (target_centre, target_sides) = _centred(boxes), _centred(targets)
    deltas = [(target_centre - centre) / sides, ops.log(target_sides / sides)]
    return ops.concatenate(deltas, axis=-1) / ops.convert_to_tensor(stds, dtype="float32")


@of_arrays
def decode(boxes, deltas, stds=(1.0, 1.0, 1.0, 1.0), size=None):
    """The boxes (..., 4) moved and stretched by `deltas` (..., 4); with a `size` (..., 2) cut to it."""
    deltas = deltas * ops.convert_to_tensor(stds, dtype="float32")
    centre, sides = _centred(boxes)
    centre = centre + deltas[..., :2] * sides
    half = sides * ops.exp(ops.clip(deltas[..., 2:], -LONGEST, LONGEST)) / 2
    boxes = ops.concatenate([centre - half, centre + half], axis=-1)
    return boxes if size is None else clip(boxes, size)


@of_arrays
def clip(boxes, size):
    """The boxes (..., 4) cut to pictures of (height, width), (..., 2)."""
    size = ops.cast(size, boxes.dtype)
    limits = ops.stack([size[..., 1], size[..., 0]] * 2, axis=-1)
    return ops.minimum(ops.maximum(boxes, 0.0), limits)


def _centred(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


@of_arrays
def suppress(boxes, scores, threshold, valid=None, groups=None):
    """Non-maximum suppression: which boxes stay when the best takes away all that overlap it by more, and so on.

    Exact and greedy: of boxes with one score the first counts as better.

    Args:
        boxes: (B, N, 4).
        scores: (B, N).
        threshold: the overlap above which the worse of two goes.
        valid: (B, N) bool, boxes that take part; None: all.
        groups: (B, N) int; boxes of different ones leave each other alone.
    Returns:
        (B, N) bool
    """
    boxes, scores = ops.stop_gradient(boxes), ops.stop_gradient(scores)
    valid = ops.ones_like(scores, dtype="bool") if valid is None else valid
    groups = ops.zeros_like(scores, dtype="int32") if groups is None else groups
    return compiled_where_eager(_stays)(boxes, scores, valid, groups, threshold=threshold)


def _stays(boxes, scores, valid, groups, *, threshold):
    order = ops.arange(ops.shape(scores)[1])
    first, second = scores[:, :, None], scores[:, None, :]
    better = (second > first) | ((second == first) & (order[None, :] < order[:, None]))  # [b, i, j]: j before i
    takes = better & (overlaps(boxes, boxes) > threshold) & (groups[:, :, None] == groups[:, None, :])
    takes = ops.cast(takes, "float32")

    # A box stays unless one that stays takes it. Asked of all boxes at once, again and again: after n rounds the
    # answer is right for all whose chain of takers is shorter than n, and when nothing changes it is right for all.
    def ask(stays, _):
        taken = ops.squeeze(ops.matmul(takes, ops.cast(stays, "float32")[..., None]), -1) > 0
        new = valid & ops.logical_not(taken)
        return new, ops.any(new != stays)

    return ops.while_loop(lambda stays, changes: changes, ask, (valid, ops.any(valid)))[0]


@of_arrays
def select(boxes, scores, count, *, threshold, overlap, soft=False, least=1e-3):
    """The best boxes of all classes, one after the other, each without those of its class that it takes away.

    Args:
        boxes: (B, N, K, 4), of each class its own; or (B, N, 1, 4) for all classes.
        scores: (B, N, K).
        count: how many at most.
        threshold: only scores above it take part.
        overlap: a box of a class goes where a better one overlaps it by more.
        soft: instead, from this overlap on, its score is multiplied by one minus the overlap, and it goes when that is
            below `least` (soft-NMS, linear).
    Returns:
        {"boxes" (B, count, 4), "scores" (B, count), "classes" (B, count) int32, "rows" (B, count) int32: which of N,
        "count" (B,) int32}; padded with zeros, classes with -1.
    Source:
        Bodla et al. 2017 (Soft-NMS); mmdetection's multiclass_nms.
    """
    options = {"count": count, "threshold": threshold, "overlap": overlap, "soft": soft, "least": least}
    boxes, scores = ops.stop_gradient(boxes), ops.stop_gradient(scores)
    kinds, own = scores.shape[2], boxes.shape[2] != 1
    chosen, kept = compiled_where_eager(_picked)(boxes, scores, **options)
    there, chosen = chosen >= 0, ops.maximum(chosen, 0)
    rows = chosen // kinds
    flat = ops.reshape(boxes, (-1, ops.shape(boxes)[1] * boxes.shape[2], 4))
    found = ops.take_along_axis(flat, (chosen if own else rows)[..., None], axis=1)
    return {
        "boxes": ops.where(there[..., None], found, 0.0),
        "scores": kept,
        "classes": ops.where(there, chosen % kinds, -1),
        "rows": rows,
        "count": ops.sum(ops.cast(there, "int32"), axis=1),
    }


def _picked(boxes, scores, *, count, threshold, overlap, soft, least):
    """The places in (N, K) of what is picked, (B, count), -1 where nothing is left; and the scores by then."""
    _, number, kinds = ops.shape(scores)
    rows, classes = ops.arange(number, dtype="int32"), ops.arange(kinds, dtype="int32")
    places = ops.arange(count, dtype="int32")

    def pick(n, alive, chosen, kept):  # alive: the scores, -1 of what is gone
        flat = ops.reshape(alive, (-1, number * kinds))
        best, score = ops.cast(ops.argmax(flat, axis=1), "int32"), ops.max(flat, axis=1)
        row, kind = best // kinds, best % kinds
        column = boxes[:, :, 0]
        if boxes.shape[2] != 1:
            column = ops.take_along_axis(boxes, kind[:, None, None, None], axis=2)[:, :, 0]  # (B, N, 4)
        shared = overlaps(ops.take_along_axis(column, row[:, None, None], axis=1), column)[:, 0]  # (B, N)
        taken = shared >= overlap if soft else shared > overlap
        factor = ops.where(taken, 1.0 - shared if soft else -1.0, 1.0)
        factor = ops.where(rows[None] == row[:, None], -1.0, factor)
        of_kind = classes[None, None] == kind[:, None, None]
        changed = alive * ops.where(of_kind, factor[:, :, None], 1.0)
        gone = (alive < 0) | (changed < (least if soft else 0.0))
        here = (places[None] == n) & (score > 0)[:, None]
        chosen, kept = ops.where(here, best[:, None], chosen), ops.where(here, score[:, None], kept)
        return n + 1, ops.where(gone, -1.0, changed), chosen, kept

    alive = ops.where(scores > threshold, scores, -1.0)
    nothing = ops.zeros_like(scores[:, :1, 0]) * ops.zeros((1, count))  # (B, count)
    start = (ops.zeros((), "int32"), alive, ops.cast(nothing, "int32") - 1, nothing)
    return ops.while_loop(lambda n, *_: n < count, pick, start)[2:]
