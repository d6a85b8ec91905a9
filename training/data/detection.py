"""What training does to a photo and its objects together."""

import dataclasses

import numpy as np
from PIL import Image

from training.data.decode import as_array
from training.data.objects import boxes_of, inside, require_masks
from training.data.segmentation import cut_out, distorted, filled_up, nearest, place_of, scaled_size


@dataclasses.dataclass(frozen=True)
class DetectionAugmentation:
    """(rng, picture, Objects) -> dict of arrays: scaled, cut out, mirrored, distorted, filled up.

    Targets are the objects that are `trained`, with what the window leaves of them: with masks, the box around an
    object's pixels there, else its clipped box. A window may hold no object.

    Args:
        size: (height, width) of the result.
        fill: the value of each channel where a photo does not reach.
        scale: the smallest and the largest factor of the size that `resize` gives.
        resize: (long, short): before the factor the photo is brought to the largest size with no longer sides; None:
            it stays.
        keep_ratio: False: the photo is brought to `size` times the factor, whatever its ratio; `resize` is not used.
        flip: whether half of the photos are mirrored.
        distort: brightness, contrast, saturation and hue change, each in half of the photos.
        least_side: objects whose box then has no longer side than that are left out.
        most_objects: the length M of the targets; of more objects a random choice remains.
        mask_size: side s of the masks; 0: none.
    Returns:
        `images` uint8 (h, w, C); `sizes` float32 (2,), height and width of the photo in it, at its top left corner;
        `boxes` float32 (M, 4); `classes` int32 (M,), -1 where there is no object; `valid` bool (M,). With masks:
        `masks` uint8 (M, s, s), 0 or 1, over the regions `mask_boxes` float32 (M, 4), which are the boxes: element
        (i, j) is the object's mask, bilinear and at least a half, at the centre of that cell.
    Source:
        mmdetection, datasets/transforms: RandomResize, RandomCrop (absolute, recompute_bbox, allow_negative_crop),
        FilterAnnotations, RandomFlip, PhotoMetricDistortion, Pad, as in its configs of large-scale jitter. Photos are
        resized by Pillow, whose bilinear filter looks at all pixels where it makes a picture smaller; masks are
        nearest pixels there and here.
    """

    size: tuple
    fill: tuple
    scale: tuple = (0.1, 2.0)
    resize: tuple | None = None
    keep_ratio: bool = True
    flip: bool = True
    distort: bool = False
    least_side: float = 1e-2
    most_objects: int = 100
    mask_size: int = 0

    def __call__(self, rng, picture, objects):
        have, image = picture.size, picture.image
        objects = objects if objects.trained.all() else objects.only(objects.trained)
        size = self._scaled(have, rng.uniform(*self.scale))
        cut = tuple(min(sides) for sides in zip(size, self.size, strict=True))
        place = place_of(rng, size, cut)
        image = cut_out(image, size, place, cut)
        masks = require_masks(objects, objects.masks(have)) if self.mask_size else None
        pixels = pixels_of(have, size, place, cut)
        boxes = cut_boxes(objects.boxes, have, size, place, cut) if masks is None else boxes_of(masks, *pixels)
        keep = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(1) > self.least_side)
        if len(keep) > self.most_objects:
            keep = np.sort(rng.choice(keep, self.most_objects, replace=False))
        boxes, classes = boxes[keep], objects.classes[keep]
        small = np.zeros((len(keep), self.mask_size, self.mask_size), "uint8")
        for row, k in enumerate(keep if self.mask_size else ()):
            small[row] = cut_mask(masks[k], *pixels, boxes[row], self.mask_size)
        if self.flip and rng.random() < 0.5:
            image, small = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), small[:, :, ::-1]
            boxes = np.stack([cut[1] - boxes[:, 2], boxes[:, 1], cut[1] - boxes[:, 0], boxes[:, 3]], axis=1)
        image = as_array(image)
        if self.distort:
            image = distorted(rng, image)
        found = {
            "images": filled_up(image, self.size, self.fill),
            "sizes": np.array(cut, "float32"),
            "boxes": self._padded(boxes.astype("float32"), 0),
            "classes": self._padded(classes.astype("int32"), -1),
            "valid": np.arange(self.most_objects) < len(keep),
        }
        if self.mask_size:
            found |= {"masks": self._padded(small, 0), "mask_boxes": found["boxes"].copy()}
        return found

    def _scaled(self, have, factor):
        if self.keep_ratio:
            return scaled_size(have, self.resize, factor)
        return tuple(max(1, int(side * factor)) for side in self.size)

    def _padded(self, rows, value):
        whole = np.full((self.most_objects, *rows.shape[1:]), value, rows.dtype)
        whole[: len(rows)] = rows
        return whole


def cut_boxes(boxes, have, size, place, cut):
    """Boxes (n, 4) of a photo of size `have` in the window of `cut_out`, clipped to it."""
    across, down = size[1] / have[1], size[0] / have[0]
    return inside(boxes * np.array([across, down] * 2) - np.array([place[1], place[0]] * 2), cut)


def pixels_of(have, size, place, cut):
    """(rows, columns) of a photo of size `have` that are the nearest ones of the window of `cut_out`."""
    sides = zip(have, size, place, cut, strict=True)
    return tuple(nearest(old, new)[first : first + length] for old, new, first, length in sides)


def cut_mask(mask, rows, columns, box, side):
    """bool (side, side): the window mask[rows][:, columns] at the centres of the cells of a box in it.

    Bilinear between the centres of the window's pixels, and at least a half.
    """
    x1, y1, x2, y2 = box
    steps = (np.arange(side) + 0.5) / side
    (low, high, part), (left, right, share) = (
        _between(start + steps * (stop - start), old) for start, stop, old in ((y1, y2, rows), (x1, x2, columns))
    )
    lines = mask[low] * (1 - part)[:, None] + mask[high] * part[:, None]  # (side, W)
    return lines[:, left] * (1 - share) + lines[:, right] * share >= 0.5


def _between(places, old):
    """(old pixel before, the one after, share of the one after) of places on an axis; beyond its ends they count."""
    places = np.clip(places - 0.5, 0, len(old) - 1)
    before = places.astype("int64")
    return old[before], old[np.minimum(before + 1, len(old) - 1)], places - before
