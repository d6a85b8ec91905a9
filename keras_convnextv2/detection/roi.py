"""Regions of interest: their features, the masks that they should have, and masks put back into pictures."""

from keras import ops

from keras_convnextv2.detection.arrays import of_arrays, vector
from keras_convnextv2.kernels.gather import weighted_rows
from keras_convnextv2.kernels.table import compiled_where_eager

FINEST = 56  # below twice this side a region is looked up on the finest map, if that has a stride of 4

EDGE = 1e-4  # samples further than one position outside of a map are zero; one that is so but for rounding is not
HALF = 0.5 - 1e-5  # a position that is half covered but for rounding belongs to the mask


@of_arrays
def level_of(boxes, levels, finest=FINEST):
    """The map that boxes (..., 4) are looked up on, (...) int32: 0 is the finest.

    Source:
        Lin et al. 2017 (FPN), equation 1, as mmdetection's SingleRoIExtractor has it.
    """
    sides = ops.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    side = ops.sqrt(ops.prod(sides, axis=-1))
    return ops.cast(ops.clip(ops.floor(ops.log2(side / finest + 1e-6)), 0, levels - 1), "int32")


@of_arrays
def roi_align(maps, boxes, strides, size, sampling_ratio=2):
    """The features of regions: bilinear samples, averaged over the cells of a grid laid into each.

    Args:
        maps: of each level, (B, H, W, C), the finest first.
        boxes: (B, N, 4); each is looked up on the map of its size.
        strides: pixels between the positions of each map.
        size: cells along a side.
        sampling_ratio: samples along a side of a cell.
    Returns:
        (B, N, size, size, C)
    Source:
        He et al. 2017 (Mask R-CNN), section 3; "aligned": half a position is taken off, as in mmcv and Detectron2.
    """
    boxes, channels = ops.stop_gradient(boxes), maps[0].shape[-1]
    heights, widths = zip(*(ops.shape(x)[1:3] for x in maps), strict=True)
    areas = [height * width for height, width in zip(heights, widths, strict=True)]
    level = level_of(boxes, len(maps), FINEST * strides[0] / 4)

    def of_level(values, dtype):
        return ops.take(vector(values, dtype), level, axis=0)[..., None]

    stride = of_level(strides, "float32")
    rows, down = _samples(boxes[..., 1::2] / stride, of_level(heights, "float32"), size, sampling_ratio)
    columns, across = _samples(boxes[..., 0::2] / stride, of_level(widths, "float32"), size, sampling_ratio)
    # The rows of all maps of all pictures stand below one another: level, picture, row, column.
    batch, count = ops.shape(boxes)[:2]
    before = [sum(areas[:n]) for n in range(len(areas))]
    start = of_level(before, "int32") * batch
    start = start + of_level(areas, "int32") * ops.arange(batch, dtype="int32")[:, None, None]
    line = start[..., None] + rows * of_level(widths, "int32")[..., None]
    index = line[:, :, :, None, :, None] + columns[:, :, None, :, None, :]
    weight = down[:, :, :, None, :, None] * across[:, :, None, :, None, :]
    width = (2 * sampling_ratio) ** 2
    flat = ops.concatenate([ops.reshape(x, (-1, channels)) for x in maps], axis=0)
    found = weighted_rows(flat, ops.reshape(index, (-1, width)), ops.reshape(weight, (-1, width)))
    return ops.reshape(found, (-1, count, size, size, channels))


def _samples(limits, length, size, ratio):
    """The two neighbours of each sample along an axis, (B, N, size, 2 * ratio) int32, and their shares in the mean.

    limits (B, N, 2): where a region begins and ends; length (B, N, 1): positions of the map.
    """
    first, last = limits[..., :1] - 0.5, limits[..., 1:] - 0.5
    steps = (ops.arange(size * ratio, dtype="float32") + 0.5) / (size * ratio)
    at = first + steps * (last - first)
    inside = (at >= -1.0 - EDGE) & (at <= length + EDGE)
    at = ops.clip(at, 0.0, length - 1)
    low = ops.floor(at)
    high = ops.minimum(low + 1, length - 1)
    share = at - low
    counts = ops.cast(inside, "float32") / ratio
    shape = (-1, ops.shape(limits)[1], size, 2 * ratio)
    index = ops.stack([low, high], axis=-1)
    weight = ops.stack([(1 - share) * counts, share * counts], axis=-1)
    return ops.reshape(ops.cast(index, "int32"), shape), ops.reshape(weight, shape)


@of_arrays
def mask_targets(masks, regions, boxes, objects, size):
    """The mask that each region should have: that of its object, cut out by the region.

    Args:
        masks: (B, M, h, w), 0 or 1 (or bool): an object's mask inside of its region of the picture.
        regions: (B, M, 4): where each mask lies in the picture.
        boxes: (B, N, 4).
        objects: (B, N) int: whose mask.
        size: positions along a side.
    Returns:
        (B, N, size, size) float32, 0 or 1
    Source:
        mmdetection's BitmapMasks.crop_and_resize: RoIAlign with as many samples in a cell as it has pixels, then 0.5.
    """
    values = compiled_where_eager(_cut)(ops.cast(masks, "float32"), regions, boxes, objects, size=size)
    return ops.cast(values >= HALF, "float32")


def _cut(masks, regions, boxes, objects, *, size):
    height, width = ops.shape(masks)[2:]
    regions = ops.take_along_axis(regions, objects[..., None], axis=1)
    masks = ops.take_along_axis(masks, objects[..., None, None], axis=1)  # (B, N, h, w)
    extent = ops.maximum(regions[..., 2:] - regions[..., :2], 1e-6)
    scale = vector((width, height), "float32") / extent
    first, last = (boxes[..., :2] - regions[..., :2]) * scale, (boxes[..., 2:] - regions[..., :2]) * scale
    down = _mean_shares(first[..., 1], last[..., 1], height, size)
    across = _mean_shares(first[..., 0], last[..., 0], width, size)
    return ops.matmul(ops.matmul(down, masks), ops.swapaxes(across, -1, -2))


def _mean_shares(first, last, length, size):
    """(B, N, size, length): the share of each position in the mean of a cell, sampled once a position of its extent."""
    cell = (last - first) / size
    counts = ops.maximum(ops.ceil(cell), 1.0)  # samples in a cell, of each region its own number
    cells, positions = ops.arange(size, dtype="float32"), ops.arange(length, dtype="float32")

    def add(n, shares):
        step = (ops.cast(n, "float32") + 0.5) / counts
        at = first[..., None] - 0.5 + (cells + step[..., None]) * cell[..., None]  # (B, N, size)
        used = (at >= -1.0 - EDGE) & (at <= length + EDGE) & (ops.cast(n, "float32") < counts)[..., None]
        at = ops.clip(at, 0.0, length - 1.0)
        near = ops.maximum(1.0 - ops.abs(at[..., None] - positions), 0.0)
        return n + 1, shares + near * ops.cast(used, "float32")[..., None]

    most = ops.cast(ops.max(counts), "int32")
    none = ops.zeros_like(first)[..., None, None] * (cells[:, None] * positions)
    _, shares = ops.while_loop(lambda n, _: n < most, add, (ops.zeros((), "int32"), none))
    return shares / counts[..., None, None]


@of_arrays
def paste(masks, boxes, size):
    """Masks of regions put into a picture: bilinear between the centres of positions, zero outside of the region.

    Args:
        masks: (..., h, w), probabilities.
        boxes: (..., 4).
        size: (height, width) of the picture.
    Returns:
        (..., height, width)
    Source:
        mmdetection's _do_paste_mask, the rule for the whole picture.
    """
    down = _pasted(boxes[..., 1::2], masks.shape[-2], size[0])
    across = _pasted(boxes[..., 0::2], masks.shape[-1], size[1])
    return ops.matmul(ops.matmul(down, masks), ops.swapaxes(across, -1, -2))


def _pasted(limits, have, want):
    """(..., want, have): the share of each position of a mask in each pixel of a picture."""
    first, extent = limits[..., :1], limits[..., 1:] - limits[..., :1]
    empty = extent == 0  # the reference then takes the middle of the mask everywhere
    at = (ops.arange(want, dtype="float32") + 0.5 - first) / ops.where(empty, 1.0, extent)
    at = ops.where(empty, 0.5, at) * have - 0.5
    return ops.maximum(1.0 - ops.abs(at[..., None] - ops.arange(have, dtype="float32")), 0.0)
