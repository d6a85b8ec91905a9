"""What training does to a photo and its label map together."""

import dataclasses

import numpy as np
from PIL import Image

from training.data.label_maps import IGNORE

ATTEMPTS = 10  # to find a crop that is not nearly all of one class
BRIGHTNESS, FACTORS, HUE = 32, (0.5, 1.5), 18 / 180  # of the distortion; hue as a share of the circle


@dataclasses.dataclass(frozen=True)
class SegmentationAugmentation:
    """(rng, picture, label map) -> uint8 (h, w, C) and uint8 (h, w): scaled, cut out, mirrored, distorted, filled up.

    Args:
        size: (height, width) of the result.
        fill: the value of each channel where a photo does not reach; its labels there are IGNORE.
        resize: (long, short): before the factor the photo is brought to the largest size with no longer sides; None:
            it stays.
        scale: the smallest and the largest factor of that size.
        largest_share: a crop in which one class has so large a share of the pixels is drawn anew, at most ATTEMPTS
            times; 1: never.
        flip: whether half of the photos are mirrored.
        distort: brightness, contrast, saturation and hue change, each in half of the photos.
    Source:
        mmsegmentation, datasets/transforms (RandomResize, RandomCrop, RandomFlip, PhotoMetricDistortion) in the order
        of its configs. Photos are resized by Pillow, whose bilinear filter looks at all pixels where it makes a
        picture smaller; hue is turned in Pillow's 256 steps.
    """

    size: tuple
    fill: tuple
    resize: tuple | None = None
    scale: tuple = (0.5, 2.0)
    largest_share: float = 0.75
    flip: bool = True
    distort: bool = True

    def __call__(self, rng, picture, target):
        have, image = picture.size, picture.image
        labels = target.array(have)
        size = scaled_size(have, self.resize, rng.uniform(*self.scale))
        rows, columns = (nearest(*sides) for sides in zip(have, size, strict=True))
        cut = tuple(min(sides) for sides in zip(size, self.size, strict=True))
        for _ in range(ATTEMPTS):
            top, left = place_of(rng, size, cut)
            found = labels[np.ix_(rows[top : top + cut[0]], columns[left : left + cut[1]])]
            if self.largest_share == 1.0 or largest_share(found) < self.largest_share:
                break
        image = cut_out(image, size, (top, left), cut)
        if self.flip and rng.random() < 0.5:
            image, found = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), found[:, ::-1]
        pixels = np.asarray(image).reshape(*cut, -1)
        if self.distort:
            pixels = distorted(rng, pixels)
        return filled_up(pixels, self.size, self.fill), filled_up(found, self.size, IGNORE)


def scaled_size(have, limits, factor):
    """The size of a photo of (H, W) brought below (long, short) and scaled, both sides at least 1."""
    if limits is not None:
        long, short = (int(side * factor) for side in (max(limits), min(limits)))
        factor = min(long / max(have), short / min(have))
    return tuple(max(1, int(side * factor + 0.5)) for side in have)


def nearest(have, want):
    """The old position of each new one, by their centres."""
    return np.minimum(((np.arange(want) + 0.5) * (have / want)).astype("int64"), have - 1)


def place_of(rng, size, cut):
    """(top, left) of a window of the size `cut` in a picture of `size`, uniform."""
    return tuple(int(rng.integers(0, whole - side + 1)) for whole, side in zip(size, cut, strict=True))


def cut_out(image, size, place, cut):
    """The window (h, w) = `cut` at (top, left) = `place` of a Pillow image as if it had been resized to `size`."""
    (down, across), (top, left) = (old / new for old, new in zip((image.height, image.width), size, strict=True)), place
    box = (left * across, top * down, (left + cut[1]) * across, (top + cut[0]) * down)
    return image.resize(cut[::-1], Image.Resampling.BILINEAR, box=box)


def filled_up(array, size, fill):
    """uint8 (*size, ...) of an array (h, w, ...) at its top left corner, `fill` elsewhere."""
    whole = np.broadcast_to(np.array(fill, "uint8"), (*size, *array.shape[2:])).copy()
    whole[: array.shape[0], : array.shape[1]] = array
    return whole


def largest_share(labels):
    """The share of the most frequent class among the pixels that count; 1 where there is one class or none."""
    counts = np.bincount(labels[labels != IGNORE].ravel(), minlength=2)
    return counts.max() / counts.sum() if np.count_nonzero(counts) > 1 else 1.0


def distorted(rng, pixels):
    """uint8 (h, w, C): PhotoMetricDistortion; grey pictures have no colour to change."""
    coin = lambda: rng.random() < 0.5  # noqa: E731
    contrast_first = coin()
    if coin():
        pixels = _shifted(pixels, 1.0, rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    if contrast_first and coin():
        pixels = _shifted(pixels, rng.uniform(*FACTORS), 0.0)
    saturation = rng.uniform(*FACTORS) if coin() else 1.0
    hue = rng.uniform(-HUE, HUE) if coin() else 0.0
    if pixels.shape[-1] == 3 and (saturation != 1.0 or hue):
        pixels = _recoloured(pixels, saturation, hue)
    if not contrast_first and coin():
        pixels = _shifted(pixels, rng.uniform(*FACTORS), 0.0)
    return pixels


def _shifted(pixels, factor, offset):
    return np.clip(pixels.astype("float32") * factor + offset, 0, 255).astype("uint8")


def _recoloured(pixels, saturation, hue):
    colours = np.array(Image.fromarray(pixels).convert("HSV"))
    colours[..., 0] += np.uint8(round(hue * 256) % 256)  # a circle of 256 steps
    colours[..., 1] = _shifted(colours[..., 1], saturation, 0.0)
    return np.asarray(Image.fromarray(colours, "HSV").convert("RGB"))
