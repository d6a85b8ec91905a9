"""From maps to regions: anchors, proposals, which object a box belongs to, which boxes are trained on."""

import math

from keras import ops

from keras_convnextv2.detection.arrays import least, of_arrays
from keras_convnextv2.detection.boxes import decode, overlaps, suppress

SCALE = 8  # an anchor's side in strides of its level
RATIOS = (0.5, 1.0, 2.0)  # height / width
PROPOSAL_OVERLAP = 0.7  # above it the worse of two proposals of a level goes
IGNORED = -1


def anchors(sizes, strides, scale=SCALE, ratios=RATIOS):
    """The anchors of every level, in the order level, row, column, ratio: a list of (H * W * ratios, 4), float32.

    They stand around the corner of a cell, not its centre, and are not rounded.

    Args:
        sizes: (H, W) of each level's map.
        strides: pixels between positions, a number a level.
    Source:
        mmdetection's AnchorGenerator; Ren et al. 2015 (Faster R-CNN), section 3.1.1.
    """
    found = []
    for (height, width), stride in zip(sizes, strides, strict=True):
        halves = [(scale * stride / math.sqrt(r) / 2, scale * stride * math.sqrt(r) / 2) for r in ratios]
        around = ops.convert_to_tensor([(-x, -y, x, y) for x, y in halves], dtype="float32")
        rows, columns = (ops.arange(n, dtype="float32") * stride for n in (height, width))
        rows, columns = ops.meshgrid(rows, columns, indexing="ij")
        corners = ops.stack([columns, rows, columns, rows], axis=-1)[:, :, None]
        found.append(ops.reshape(corners + around, (-1, 4)))
    return found


@of_arrays
def proposals_of(logits, deltas, anchors, sizes, *, count, before=None):
    """The regions worth a look, best first.

    Of each level the `before` best anchors are moved, cut to the picture and suppressed among themselves; the `count`
    best of all levels stay.

    Args:
        logits: of each level, (B, H, W, ratios): whether there is an object.
        deltas: of each level, (B, H, W, 4 * ratios).
        anchors: of each level, (H * W * ratios, 4).
        sizes: (B, 2), the true size of each picture.
    Returns:
        boxes (B, N, 4), scores (B, N) and valid (B, N) with N = count, or the number of candidates where that is less.
    """
    before = count if before is None else before
    boxes, scores, stays = [], [], []
    for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
        number = ops.shape(level_anchors)[0]
        score = ops.sigmoid(ops.stop_gradient(ops.reshape(level_logits, (-1, number))))
        delta = ops.stop_gradient(ops.reshape(level_deltas, (-1, number, 4)))
        base = level_anchors[None]
        if not isinstance(number, int) or number > before:
            score, best = ops.top_k(score, least(before, number))
            delta = ops.take_along_axis(delta, best[..., None], axis=1)
            base = ops.take(level_anchors, best, axis=0)
        box = decode(base, delta, size=sizes[:, None])
        there = ops.all(box[..., 2:] > box[..., :2], axis=-1)
        boxes.append(box)
        scores.append(score)
        stays.append(suppress(box, score, PROPOSAL_OVERLAP, valid=there))
    boxes, scores, stays = (ops.concatenate(x, axis=1) for x in (boxes, scores, stays))
    ranked, best = ops.top_k(ops.where(stays, scores, -1.0), least(count, ops.shape(scores)[1]))
    valid = ranked >= 0
    boxes = ops.where(valid[..., None], ops.take_along_axis(boxes, best[..., None], axis=1), 0.0)
    return boxes, ops.maximum(ranked, 0.0), valid


@of_arrays
def assign(objects, there, boxes, *, positive, negative, least, low_quality, candidates=None):
    """Which object each box belongs to.

    A box belongs to the object that it overlaps most if that is `positive` at least, and to none below `negative`.
    With `low_quality` the boxes that overlap an object most of all belong to it, whatever they were before, if that is
    `least` at least; where two objects claim a box, the later one has it.

    Args:
        objects: (B, M, 4), and there (B, M) bool: which of them are objects.
        boxes: (N, 4) or (B, N, 4).
        candidates: (B, N) bool, the boxes that take part; the others are ignored.
    Returns:
        (B, N) int32: IGNORED, 0 for the background, k for object k - 1; and the largest overlap, (B, N).
    Source:
        mmdetection's MaxIoUAssigner; Ren et al. 2015, section 3.1.2.
    """
    shared = overlaps(objects, boxes)  # (B, M, N)
    takes_part = there[..., None]
    if candidates is not None:
        takes_part = takes_part & candidates[:, None]
    shared = ops.where(takes_part, shared, -1.0)
    most = ops.max(shared, axis=1)
    number = ops.cast(ops.argmax(shared, axis=1), "int32") + 1
    found = ops.where(most >= positive, number, ops.where(most < negative, 0, IGNORED))
    if low_quality:
        of_object = ops.max(shared, axis=2, keepdims=True)
        claimed = (shared == of_object) & (of_object >= least)
        numbers = ops.arange(1, ops.shape(objects)[1] + 1, dtype="int32")[None, :, None]
        last = ops.max(ops.where(claimed, numbers, 0), axis=1)
        found = ops.where(last > 0, last, found)
    found = found if candidates is None else ops.where(candidates, found, IGNORED)
    return found, ops.maximum(most, 0.0)


@of_arrays
def sample(assigned, count, share, draws):
    """A random choice of boxes to train on: `share` of them belong to objects at most, the rest is background.

    Args:
        assigned: (B, N), from `assign`.
        count: how many; all where there are fewer.
        draws: (B, N), uniform in [0, 1): the smallest are taken.
    Returns:
        chosen (B, n) int32 with n = min(count, N), positive (B, n) and valid (B, n) bool: first those that belong to
        objects, then the background, then places that nothing filled.
    """
    positive, negative = assigned > 0, assigned == 0
    among = ops.where(positive, draws, 2.0)
    place = _places(among)
    taken = positive & (place < int(count * share))
    # order: 0..1 the positives that are taken, 2..3 the background, 4 the rest
    order = ops.where(taken, draws, ops.where(negative, draws + 2.0, 4.0))
    ranked, chosen = ops.top_k(-order, least(count, ops.shape(assigned)[1]))
    return ops.cast(chosen, "int32"), ranked > -1.5, ranked > -3.5


def _places(values):
    """(B, N) -> the place of each value in the order of its row, from 0."""
    order = ops.argsort(values, axis=1)
    return ops.argsort(order, axis=1)
