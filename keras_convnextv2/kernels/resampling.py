"""Maps of another size, by one product along each axis (any size, also one only known when it is run), or by torch."""

import numpy as np
from keras import ops

from keras_convnextv2.kernels.table import choose


def resized(x, size):
    """(B, h, w, C) -> (B, H, W, C), bilinear between the centres of pixels, as torch's `align_corners=False`."""
    return choose({"plain": _resized_plain, "torch": _resized_torch})(x, size)


def _resized_plain(x, size):
    return _along_both(_interpolation, x, size)


def _resized_torch(x, size):
    import torch.nn.functional as F

    x = ops.convert_to_tensor(x)
    if tuple(x.shape[1:3]) == tuple(size):
        return x
    y = F.interpolate(x.permute(0, 3, 1, 2), tuple(size), mode="bilinear", align_corners=False)
    return y.permute(0, 2, 3, 1).contiguous()


def pooled(x, bins):
    """(B, h, w, C) -> (B, bins, bins, C): means over bins that may overlap, as torch's AdaptiveAvgPool2d.

    Of n positions, bin i of s holds those from floor(i n / s) to ceil((i + 1) n / s), the last one left out.
    """
    return _along_both(_averages, x, (bins, bins))


def _along_both(weights, x, size):
    sides = tuple(ops.shape(x)[1:3])
    if _known(*sides, *size) and sides == tuple(size):
        return x
    rows, columns = (ops.cast(weights(have, want), x.dtype) for have, want in zip(sides, size, strict=True))
    return ops.einsum("jw,biwc->bijc", columns, ops.einsum("ih,bhwc->biwc", rows, x))


def _interpolation(have, want):
    """(want, have): the share of each old position in each new one."""
    on, floats = _computes(have, want)
    centres = (floats(on.arange(want)) + 0.5) * (floats(have) / floats(want)) - 0.5
    centres = on.clip(centres, 0.0, floats(have - 1))
    return on.maximum(1.0 - on.abs(centres[:, None] - floats(on.arange(have))[None]), 0.0)


def _averages(have, bins):
    """(bins, have): one over the number of positions in a bin where they are in it, else zero."""
    on, floats = _computes(have, bins)
    i, positions = on.arange(bins), on.arange(have)
    first, last = i * have // bins, ((i + 1) * have + bins - 1) // bins
    inside = (positions[None] >= first[:, None]) & (positions[None] < last[:, None])
    return floats(inside) / floats(last - first)[:, None]


def _computes(*sizes):
    """What computes with these sizes, and its cast to float32: numpy where they are known, else the backend."""
    return (np, np.float32) if _known(*sizes) else (ops, lambda x: ops.cast(x, "float32"))


def _known(*sizes):
    return all(isinstance(size, int) for size in sizes)
