"""Crops, flips, colour jitter, erasing, and the evaluation picture.

A picture is `Pixels` or `Encoded`; Pillow resizes it in eight bits, as torchvision does with Pillow's images.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from training.data.decode import as_array, as_image
from training.data.randaugment import OPERATIONS

CROPS = ("random_resized", "padded", "none")
ATTEMPTS = 10  # to find a window that fits
ASPECT_RATIO = (3 / 4, 4 / 3)
PADDING = 4
JITTERED = ("brightness", "contrast", "color")
ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training does to a picture: (rng, picture) -> uint8 (h, w, C), or float32 with `erase`.

    Args:
        size: (height, width) of the result.
        crop: `random_resized` (area within `crop_scale`), `padded` (PADDING mirrored pixels around, for small pictures)
            or `none`; before both, the largest centre of the size's aspect ratio is resized to it.
        crop_scale: of a random resized crop, the smallest and largest part of the picture's area.
        flip: whether half of the pictures are mirrored.
        change: (rng, Pillow image) -> image of the same size, after that: `RandAugment`, `ColorJitter`; None: nothing.
        erase: (rng, uint8 array) -> float32 array, last: `Erasing`; None: nothing.
    """

    size: tuple
    crop: str = "random_resized"
    crop_scale: tuple = (0.2, 1.0)
    flip: bool = True
    change: Callable | None = None
    erase: Callable | None = None

    def __post_init__(self):
        if np.size(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"image_size must be (height, width), both at least 1. Received: {self.size!r}")
        if self.crop not in CROPS:
            raise ValueError(f"crop must be one of {', '.join(CROPS)}. Received: {self.crop!r}")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(
                f"crop_scale must be (smallest, largest) part, within (0, 1]. Received: {self.crop_scale!r}"
            )
        if self.crop == "padded" and min(self.size) <= PADDING:
            raise ValueError(f"a padded crop mirrors {PADDING} pixels of larger sides. Received: {self.size!r}")

    @classmethod
    def of(cls, config, **more):
        """That of a config with pictures of one size."""
        return cls(config.image_size, config.crop, config.crop_scale, config.flip, **more)

    def __call__(self, rng, picture):
        if self.crop == "random_resized":
            numbers = rng.random((2, ATTEMPTS + 1))
            image = picture.resized(crop_window(numbers, picture.size, self.crop_scale), self.size)
        else:
            image = (
                picture.image
                if picture.size == self.size
                else picture.resized(centre(picture.size, self.size), self.size)
            )
            if self.crop == "padded":
                image = padded_crop(image, *rng.integers(0, 2 * PADDING + 1, 2))
        if self.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.change is not None:
            image = self.change(rng, image)
        return as_array(image) if self.erase is None else self.erase(rng, as_array(image))


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """(rng, Pillow image) -> image: brightness, contrast and saturation by a factor each, in random order.

    Args:
        strength: the factors are uniform in 1 - strength .. 1 + strength, and at least 0.
    Source:
        timm's `color_jitter`, which is torchvision's ColorJitter without a change of hue.
    """

    strength: float

    def __call__(self, rng, image):
        factors = rng.uniform(max(0.0, 1 - self.strength), 1 + self.strength, len(JITTERED)).tolist()
        for which in rng.permutation(len(JITTERED)):
            image = OPERATIONS[JITTERED[which]].run(image, factors[which], None)
        return image


@dataclasses.dataclass(frozen=True)
class Erasing:
    """(rng, uint8 (h, w, C)) -> float32: with some probability, noise in a window.

    A pixel becomes 255 * (mean + std * n) with n standard normal, which the model's normalisation turns into n; that is
    no 8-bit value and is not clipped. The window has ERASED_AREA of the picture's area, uniform, and a ratio of
    sides within ERASED_RATIO, uniform in its logarithm; if none of ten draws fits, nothing is erased.

    Args:
        mean, std: per channel, fractions of 1, by which the model normalises.
    Source:
        Random Erasing (arXiv 1708.04896); timm/data/random_erasing.py with mode `pixel` and one window.
    """

    probability: float
    mean: tuple
    std: tuple

    def __call__(self, rng, picture):
        erased = picture.astype("float32")
        if rng.random() < self.probability:
            height, width, channels = erased.shape
            numbers = rng.random((2, ATTEMPTS + 1))
            window = first_window(numbers, (height, width), ERASED_AREA, ERASED_RATIO, (height - 1, width - 1))
            if window is not None:
                top, left, height, width = window
                noise = rng.standard_normal((height, width, channels), "float32")
                mean, std = (255 * np.array(values, "float32") for values in (self.mean, self.std))
                erased[top : top + height, left : left + width] = mean + std * noise
        return erased


def crop_window(numbers, size, scale, ratio=ASPECT_RATIO):
    """The window (top, left, height, width) of a random resized crop.

    The first of ten draws that fits into the picture. If none does: the largest central window whose ratio is in range.

    Args:
        numbers, size, scale, ratio: as of `first_window`.
    Source:
        torchvision's RandomResizedCrop, which the paper's training used.
    """
    window = first_window(numbers, size, scale, ratio, size)
    if window is not None:
        return window
    height, width = size
    crop_height, crop_width = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    return round((height - crop_height) / 2), round((width - crop_width) / 2), crop_height, crop_width


def first_window(numbers, size, scale, ratio, largest):
    """The first window (top, left, height, width) of some draws that is not larger than `largest`, or None.

    Area uniform in `scale` of the picture's, the logarithm of the aspect ratio (width / height) uniform in `ratio`, any
    place in the picture.

    Args:
        numbers: 0..1, (2, draws + 1): of the areas and of the ratios, and last those of the place.
        size, largest: (height, width).
    """
    height, width = size
    (*areas, down), (*ratios, right) = np.asarray(numbers).tolist()
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for area, aspect in zip(areas, ratios, strict=True):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = math.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * aspect)
        window_height, window_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 1 <= window_height <= largest[0] and 1 <= window_width <= largest[1]:
            # numbers are below 1, so that these are 0 .. what is left
            top, left = int(down * (height - window_height + 1)), int(right * (width - window_width + 1))
            return top, left, window_height, window_width
    return None


def centre(size, target):
    """The largest window (top, left, height, width) of a picture of `size` that has the aspect ratio of `target`."""
    scale = min(size[0] / target[0], size[1] / target[1])
    height, width = (min(side, max(1, round(scale * wanted))) for side, wanted in zip(size, target, strict=True))
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def padded_crop(image, top, left):
    """A window of the image's own size, from the image with PADDING mirrored pixels around it."""
    mirrored = np.pad(as_array(image), [(PADDING, PADDING), (PADDING, PADDING), (0, 0)], "reflect")
    return as_image(mirrored[top : top + image.height, left : left + image.width])


def evaluation_picture(picture, size, crop_fraction):
    """uint8 (h, w, C) of a picture: as it is when it has the size, else as the published networks' presets.

    The sides that are resized to are int(size / crop_fraction); the picture keeps its aspect ratio and covers them, and
    its centre is cropped. With crop_fraction None it is resized to `size` and its aspect ratio ignored.
    """
    if picture.size == tuple(size):
        return picture.array
    from keras_convnextv2.preprocessing import resize_and_crop  # and Keras with it, which worker processes do without

    return as_array(resize_and_crop(picture.image, size, crop_fraction))
