"""Pictures of any size: how large they are shown to a network, and by which windows."""

import numpy as np

STRIDE = 2 / 3  # of a window: 341 of 512 and 426 of 640 in mmsegmentation's configs
ROWS = 16  # that are worked off together: with many classes a whole picture of them would be the most of the memory


def require_picture(picture, channels=None):
    """The picture as numpy's array (H, W, C); `channels`: that the model takes, where it is known."""
    picture = np.asarray(picture)
    if picture.ndim != 3 or 0 in picture.shape:
        raise ValueError(f"picture must be (height, width, channels). Received: shape {picture.shape}.")
    if channels is not None and picture.shape[2] != channels:
        raise ValueError(f"picture must have {channels} channels. Received: shape {picture.shape}.")
    if picture.dtype.kind not in "fiub":
        raise ValueError(f"picture must be of real numbers. Received: dtype {picture.dtype}.")
    if picture.dtype.kind == "f" and not np.isfinite(picture).all():
        raise ValueError("picture must have finite values. Received: some that are not.")
    return picture


def sides_of(given, name, least=1, one=False):
    """Two ints; with `one` a single side may stand for both."""
    sides = tuple(given) if isinstance(given, tuple | list) else (given, given) if one else ()
    whole = len(sides) == 2 and all(isinstance(side, int | np.integer) for side in sides)
    if not whole or min(sides) < least:
        what = "a side in whole pixels, or (height, width)" if one else "two sides in whole pixels"
        raise ValueError(f"{name} must be {what}, of {least} at least. Received: {given!r}.")
    return tuple(map(int, sides))


def scaled_size(have, size, scale):
    """The size of a picture of (H, W) that is to fit (long, short), times a scale."""
    factor = 1.0
    if size is not None:
        long, short = (int(side * scale) for side in (max(size), min(size)))
        factor, scale = min(long / max(have), short / min(have)), 1.0
    return tuple(max(1, int(side * factor * scale + 0.5)) for side in have)


def windows_of(window, stride, least=1):
    """((height, width), (down, across)) of windows.

    Args:
        least: sides of a window.
    """
    if window is None and stride is not None:
        raise ValueError(f"stride needs a window, from which it is counted. Received: stride={stride!r}, no window.")
    if window is None:
        return (None, None), (None, None)
    window = sides_of(window, "window", least, one=True)
    if stride is None:
        stride = tuple(max(1, int(side * STRIDE)) for side in window)
    stride = sides_of(stride, "stride", one=True)
    if not all(step <= side for step, side in zip(stride, window, strict=True)):
        raise ValueError(f"stride must be in 1..window, which is {window}. Received: {stride}.")
    return window, stride


def starts(whole, side, step):
    """Where windows begin: every `step`, and the last one so that it ends with the picture."""
    count = -(-max(whole - side, 0) // step) + 1
    return [min(i * step, whole - side) for i in range(count)]


def resized(picture, size):
    """(h, w, C) -> (H, W, C), bilinear between the centres of pixels; whole numbers stay whole."""
    if picture.shape[:2] == tuple(size):
        return picture
    found = np.concatenate(list(resized_rows([picture.astype("float32")], picture.shape[:2], size)))
    return np.rint(found).astype(picture.dtype) if np.issubdtype(picture.dtype, np.integer) else found


def resized_rows(blocks, have, want):
    """Rows of (H, W, C) from top to bottom as rows of another size, bilinear between the centres of pixels."""
    (low, high, share), across = (_neighbours(*sizes) for sizes in zip(have, want, strict=True))
    held, first, done = None, 0, 0  # rows from `first` on are held
    for block in blocks:
        block = _mixed(block, 1, *across)
        held = block if held is None else np.concatenate([held, block])
        ready = int(np.searchsorted(high, first + len(held)))
        if ready > done:
            for part in slices(done, ready):
                yield _mixed(held, 0, low[part] - first, high[part] - first, share[part])
            done = ready
            keep = min(low[done] - first, len(held)) if done < len(low) else len(held)  # further rows may still come
            held, first = held[keep:], first + keep


def slices(start, stop):
    """Slices of `ROWS` at most, one behind the other."""
    return [slice(row, min(row + ROWS, stop)) for row in range(start, stop, ROWS)]


def _neighbours(have, want):
    """The two old positions around each new one, and the share of the second."""
    at = np.clip((np.arange(want) + 0.5) * (have / want) - 0.5, 0, have - 1)
    low = at.astype("int64")
    return low, np.minimum(low + 1, have - 1), (at - low).astype("float32")


def _mixed(x, axis, low, high, share):
    share = share.reshape((-1, *[1] * (x.ndim - 1 - axis)))
    return np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
