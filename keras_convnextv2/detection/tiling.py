"""Detections in pictures of any size: as a whole or tile by tile."""

import keras
import numpy as np
from keras import ops

from keras_convnextv2.detection.boxes import TINY
from keras_convnextv2.detection.roi import paste
from keras_convnextv2.pictures import require_picture, resized, scaled_size, sides_of, starts, windows_of
from keras_convnextv2.weights.channels import statistics

AT_ONCE, PIXELS = 8, 2**24  # masks that are put into a picture together, and pixels that they have at most: 64 MB


def predict(
    model,
    picture,
    *,
    size=None,
    keep_ratio=True,
    window=None,
    stride=None,
    merge=None,
    mask_threshold=0.5,
    pasted=True,
    verbose=0,
):
    """What a detector finds in one picture, in pixels of that picture.

    Args:
        model: a `MaskRCNN`.
        picture: (H, W, C), in the units of the model's images.
        size: (long, short): the picture is first brought to the largest size with no longer sides, as the protocol of
            COCO does with (1333, 800); None: it stays.
        keep_ratio: False: it is brought to exactly `size`, which is then (height, width).
        window: side of tiles that a large scene is looked at by, or (height, width); None takes it as a whole, with a
            model of one size by tiles of that size.
        stride: between tiles, or (down, across); two thirds of the window by default.
        merge: overlap above which the worse of two detections of a class from different tiles goes; by default the
            model's `nms_threshold`.
        mask_threshold: from this probability on a pixel belongs to an object.
        pasted: False: masks stay what the model gives, (n, 28, 28) probabilities inside of each box. For large scenes:
            pasted ones take n * H * W bytes. `mask_threshold` is not used then.
        verbose: 1 shows a progress bar over tiles.
    Returns:
        {"boxes" (n, 4) float32, "scores" (n,), "classes" (n,) int32, "masks" (n, H, W) bool, of a model with masks},
        the best first
    Raises:
        ValueError: no picture of one, other channels than the model's, values of 0..1 for a model of 0..255; a window
            below the network's total stride, a stride that leaves gaps; an option out of its range.
    """
    *fixed, channels = model.backbone.input_shape[1:]
    picture = require_picture(picture, channels)
    _require_units(model, picture)
    if size is not None or not keep_ratio:
        size = sides_of(size, "size")
    for name, value in (("merge", merge), ("mask_threshold", mask_threshold)):
        if value is not None and not (isinstance(value, int | float | np.number) and 0 <= value <= 1):
            raise ValueError(f"{name} must be in 0..1. Received: {value!r}.")
    window = tuple(fixed) if window is None and None not in fixed else window
    given, window = picture.shape[:2], windows_of(window, stride, model.least_side)
    picture = resized(picture, scaled_size(given, size, 1.0) if keep_ratio else size)
    tiles = list(_tiles(picture.shape[:2], *window))
    bar = keras.utils.Progbar(len(tiles), verbose=verbose, unit_name="tile")
    found = []
    for tile in tiles:
        found.append(_looked_at(model, picture, tile, window[0]))
        bar.add(1)
    found = {name: np.concatenate([x[name] for x in found]) for name in found[0]}
    if len(tiles) > 1:
        found = _merged(found, model.nms_threshold if merge is None else merge)
    back = np.array([given[1] / picture.shape[1], given[0] / picture.shape[0]] * 2, "float32")
    found["boxes"] = found["boxes"] * back
    if pasted and "masks" in found:
        masks = np.empty((len(found["masks"]), *given), bool)
        for row, mask in zip(masks, each_pasted(found["masks"], found["boxes"], given, mask_threshold), strict=True):
            row[:] = mask
        found["masks"] = masks
    return found


def _require_units(model, picture):
    """Raises for fractions of one where the model divides by 255 itself: it would see black and find nothing."""
    if statistics(model) is not None and picture.dtype.kind in "fb" and 0 < picture.max() <= 1:
        rule = "picture must be of 0..255, in the units of the model's images"
        raise ValueError(f"{rule}. Received: {picture.dtype} up to {picture.max():.4g}. Multiply it by 255.")


def _tiles(size, window, stride):
    """(top, left, bottom, right) of each tile."""
    sides = [min(side or whole, whole) for side, whole in zip(window, size, strict=True)]
    tops, lefts = (starts(whole, side, step or side) for whole, side, step in zip(size, sides, stride, strict=True))
    for top in tops:
        for left in lefts:
            yield top, left, top + sides[0], left + sides[1]


def _looked_at(model, picture, tile, window):
    """The detections of a tile, in pixels of the picture as it is shown."""
    top, left, bottom, right = tile
    cut = picture[top:bottom, left:right]
    sides = [
        side or -(-have // model.least_side) * model.least_side for side, have in zip(window, cut.shape, strict=False)
    ]
    inputs = {"images": filled_up(model, cut, sides)[None], "sizes": np.array([cut.shape[:2]], "float32")}
    found = {name: np.asarray(x)[0] for name, x in model.predict_on_batch(inputs).items()}
    count = int(found.pop("count"))
    found = {name: x[:count] for name, x in found.items()}
    found["boxes"] = found["boxes"] + np.array([left, top, left, top], "float32")
    return found


def filled_up(model, picture, size):
    """The picture (h, w, C) with what the model normalises to zero at its right and bottom, (H, W, C) float32."""
    mean, _ = statistics(model) or (0.0, None)
    whole = np.empty((*size, picture.shape[2]), "float32")
    whole[:] = np.asarray(mean) * 255.0
    whole[: picture.shape[0], : picture.shape[1]] = picture
    return whole


def _merged(found, overlap):
    """The detections of all tiles without those that a better one of the same class overlaps, the best first.

    One after the other: of a large scene there are too many for an array of all pairs.
    """
    order, stays = np.argsort(-found["scores"], kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        stays.append(best)
        shared = _shared(found["boxes"][best], found["boxes"][order])
        order = order[(shared <= overlap) | (found["classes"][order] != found["classes"][best])]
    return {name: x[stays] for name, x in found.items()}


def _shared(box, boxes):
    """(n,): the intersections of a box with others as shares of their unions."""
    sides = np.maximum(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0)
    common, own, theirs = sides.prod(1), (box[2:] - box[:2]).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return common / np.maximum(own + theirs - common, TINY)


def each_pasted(masks, boxes, size, threshold=0.5):
    """Probabilities (n, h, w) inside of boxes (n, 4) as masks (H, W) bool of a picture, one after the other."""
    at_once = max(1, min(AT_ONCE, PIXELS // (size[0] * size[1])))
    for n in range(0, len(masks), at_once):
        part = slice(n, n + at_once)
        yield from ops.convert_to_numpy(paste(masks[part], boxes[part], size)) >= threshold
