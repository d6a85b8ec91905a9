"""Label maps of pictures of any size: as a whole or window by window, mirrored and at several scales."""

import collections

import keras
import numpy as np

from keras_convnextv2.layers.network import network_of
from keras_convnextv2.pictures import require_picture, resized_rows, scaled_size, sides_of, slices, starts, windows_of


def predict(model, picture, *, window=None, stride=None, size=None, scales=(1.0,), flip=False, verbose=0):
    """The class of each pixel of one picture.

    Windows overlap, and their logits are averaged where they do; probabilities are averaged over scales and mirrored
    pictures. Rows of windows are worked off from top to bottom, and one compiled function serves all windows. Beside
    the picture the memory is that of the logits of one row of windows, for each scale and each mirrored picture once
    more: it grows with the width, not with the height.

    Args:
        model: a `UPerNet`, or any model from images (B, H, W, C) to logits (B, H, W, classes).
        picture: (H, W, C), in the units of the model's images.
        window: side of the windows, or (height, width); None takes the picture as a whole. Of a model of one size it is
            that size.
        stride: between windows, or (down, across); two thirds of the window by default.
        size: (long, short): the picture is first brought to the largest size with no longer sides, as the protocol of
            ADE20K does with (2048, 512); the answer has the size of the picture all the same.
        scales: factors of that size, such as (0.75, 1.0, 1.25).
        flip: each scale mirrored too.
        verbose: 1 shows a progress bar over rows.
    Returns:
        (H, W), uint8 where there are at most 256 classes, else int32.
    Raises:
        ValueError: no picture of one, other channels than the model's, a stride that leaves gaps, no scale, a window
            of another size than the model's.
    Source:
        mmsegmentation, models/segmentors/encoder_decoder.py (slide_inference) and base.py.
    """
    picture = require_picture(picture, _input_shape(model)[2])
    if not isinstance(scales, (tuple, list)) or not scales or not all(map(_is_factor, scales)):
        raise ValueError(f"scales must be one positive factor or more, such as (0.75, 1.0). Received: {scales!r}.")
    size = None if size is None else sides_of(size, "size")
    window, stride = windows_of(window, stride)
    sizes = [scaled_size(picture.shape[:2], size, scale) for scale in scales]
    for shown in sizes:
        _require_fit(model, window, shown)
    streams = [
        _probabilities(model, picture, shown, window, stride, mirrored)
        for shown in sizes
        for mirrored in ((False, True) if flip else (False,))
    ]
    bar = keras.utils.Progbar(picture.shape[0], verbose=verbose, unit_name="row")
    maps = []
    for rows in _in_step(streams):
        maps.append(np.argmax(sum(rows), axis=-1).astype("uint8" if rows[0].shape[-1] <= 256 else "int32"))
        bar.add(len(maps[-1]))
    return np.concatenate(maps)


def _is_factor(scale):
    return isinstance(scale, int | float | np.number) and 0 < scale < float("inf")


def _input_shape(model):
    """(height, width, channels) that a model takes alone; None for what may be anything or is not known."""
    inputs = getattr(network_of(model), "inputs", None)
    return tuple(inputs[0].shape[1:4]) if inputs else (None, None, None)


def _require_fit(model, window, size):
    """A model of one size looks by windows of that size, or at pictures that are not larger."""
    only = _input_shape(model)[:2]
    asked = [have if side is None else side for side, have in zip(window, size, strict=True)]
    taken = [
        side is None or (one <= side if None in window else one == side) for one, side in zip(asked, only, strict=True)
    ]
    if not all(taken):
        received = f"None for a picture of {size}" if None in window else f"{window}"
        raise ValueError(f"window must be {only}, the one size that the model takes. Received: {received}.")


def _probabilities(model, picture, size, window, stride, mirrored):
    """The rows of a picture's probabilities from top to bottom, (n, W, classes) at a time."""
    given = picture.shape[:2]
    if mirrored:
        picture = picture[:, ::-1]
    if size != given:
        picture = np.concatenate(list(resized_rows([picture.astype("float32")], given, size)))
    rows = _logits(model, picture, window, stride)
    for block in resized_rows(rows, size, given) if size != given else rows:
        block = np.exp(block - block.max(-1, keepdims=True))
        block /= block.sum(-1, keepdims=True)
        yield block[:, ::-1] if mirrored else block


def _logits(model, picture, window, stride):
    """The rows of a picture's logits, means over the windows that lie there."""
    height, width = (min(side or whole, whole) for side, whole in zip(window, picture.shape, strict=False))
    tops, lefts = (
        starts(whole, side, step or side)
        for whole, side, step in zip(picture.shape, (height, width), stride, strict=False)
    )
    sums = counts = None
    for top, following in zip(tops, [*tops[1:], picture.shape[0]], strict=True):
        for left in lefts:
            cut = picture[top : top + height, left : left + width]
            logits = _answer(model, cut)
            if sums is None:
                sums = np.zeros((height, picture.shape[1], logits.shape[-1]), "float32")
                counts = np.zeros((height, picture.shape[1], 1), "float32")
            sums[:, left : left + width] += logits
            counts[:, left : left + width] += 1
        done = following - top  # rows that no further window reaches
        for part in slices(0, done):
            yield sums[part] / counts[part]
        for kept in (sums, counts):
            kept[: height - done] = kept[done:].copy()
            kept[height - done :] = 0


def _answer(model, cut):
    """The logits of a window; one that is smaller than what the network takes is continued at its edges."""
    needed = getattr(model, "least_side", [side or 1 for side in _input_shape(model)[:2]])
    height, width = cut.shape[:2]
    missing = [max(0, side - have) for side, have in zip(np.broadcast_to(needed, 2), (height, width), strict=True)]
    if any(missing):
        cut = np.pad(cut, [*((0, count) for count in missing), (0, 0)], "edge")
    return np.asarray(model.predict_on_batch(cut[None])[0], "float32")[:height, :width]


def _in_step(streams):
    """Of streams of rows the same rows at a time, as lists of blocks of one length."""
    waiting = [collections.deque() for _ in streams]
    while True:
        for queue, stream in zip(waiting, streams, strict=True):
            if not queue:
                block = next(stream, None)
                if block is None:
                    return
                queue.append(block)
        count = min(len(queue[0]) for queue in waiting)
        yield [queue[0][:count] for queue in waiting]
        for queue in waiting:
            rest = queue.popleft()[count:]
            if len(rest):
                queue.append(rest)
