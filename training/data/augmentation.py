"""Crops, flips and the evaluation picture.

A picture is `Pixels` or `Encoded`; Pillow resizes it in eight bits, as torchvision does with Pillow's images.
"""

import dataclasses
import math

import numpy as np
from PIL import Image

from training.data.decode import as_array, as_image

CROPS = ("random_resized", "padded", "none")
CROP_ATTEMPTS = 10
ASPECT_RATIO = (3 / 4, 4 / 3)
PADDING = 4


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training does to a picture: (rng, picture) -> uint8 (h, w, C).

    Args:
        size: (height, width) of the result.
        crop: `random_resized` (area within `crop_scale`), `padded` (PADDING mirrored pixels around, for small pictures)
            or `none`; before both, the largest centre of the size's aspect ratio is resized to it.
        crop_scale: of a random resized crop, the smallest and largest part of the picture's area.
        flip: whether half of the pictures are mirrored.
    """

    size: tuple
    crop: str = "random_resized"
    crop_scale: tuple = (0.2, 1.0)
    flip: bool = True

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
    def of(cls, config):
        """That of a config with pictures of one size."""
        return cls(config.image_size, config.crop, config.crop_scale, config.flip)

    def __call__(self, rng, picture):
        if self.crop == "random_resized":
            numbers = rng.random((2, CROP_ATTEMPTS + 1))
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
        return as_array(image)


def crop_window(numbers, size, scale, ratio=ASPECT_RATIO):
    """The window (top, left, height, width) of a random resized crop.

    Area uniform in `scale` of the picture's, the logarithm of the aspect ratio (width / height) uniform; the first of
    ten draws that fits into the picture. If none does: the largest central window whose ratio is in range.

    Args:
        numbers: 0..1, (2, 11): of the areas and of the ratios, and last those of the place.
        size: (height, width) of the picture.
    Source:
        torchvision's RandomResizedCrop, which the paper's training used.
    """
    height, width = size
    (*areas, down), (*ratios, right) = np.asarray(numbers).tolist()
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for area, aspect in zip(areas, ratios, strict=True):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = math.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * aspect)
        crop_height, crop_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 1 <= crop_height <= height and 1 <= crop_width <= width:
            # numbers are below 1, so that these are 0 .. what is left
            top, left = int(down * (height - crop_height + 1)), int(right * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_height, crop_width = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    return round((height - crop_height) / 2), round((width - crop_width) / 2), crop_height, crop_width


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
