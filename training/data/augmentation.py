"""Crops, flips and the evaluation resize: what is drawn, in stateless TensorFlow ops, and what is done with it.

A picture is `Pixels` or `Encoded`; Pillow resizes it in eight bits, as torchvision does with Pillow's images. What is
random comes in as numbers, which are a function of a sample's seed (two int64): see `draw`.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_convnextv2.weights.transform import resize_and_crop
from training.data.decode import as_array, as_image

CROPS = ("random_resized", "padded", "none")
CROP_ATTEMPTS = 10
ASPECT_RATIO = (3 / 4, 4 / 3)
PADDING = 4
_CROP, _FLIP = 0, 1  # folded into a seed; the pipeline has further purposes


def fold_in(seed, purpose):
    """A seed for one purpose (an int) of whatever `seed` belongs to."""
    return tf.random.fold_in(seed, tf.cast(purpose, tf.int64), alg="philox")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training does to a picture.

    Args:
        size: (height, width) of the result.
        crop: `random_resized`, `padded` or `none`.
        crop_scale: of a random resized crop, the smallest and largest part of the picture's area.
        flip: whether half of the pictures are mirrored.
    """

    size: tuple
    crop: str
    crop_scale: tuple
    flip: bool

    def draw(self, seed):
        """The random numbers of a sample, for the crop and for the flip; a graph function."""
        crop, seed_of_crop = tf.zeros([]), fold_in(seed, _CROP)
        if self.crop == "random_resized":
            crop = tf.random.stateless_uniform([2, CROP_ATTEMPTS + 1], seed_of_crop, alg="philox")
        elif self.crop == "padded":
            crop = tf.random.stateless_uniform([2], seed_of_crop, 0, 2 * PADDING + 1, tf.int32, alg="philox")
        return crop, tf.random.stateless_uniform([], fold_in(seed, _FLIP), alg="philox")

    def apply(self, picture, crop, flip):
        """uint8 (h, w, C) of a picture and the two arrays of `draw`."""
        if self.crop == "random_resized":
            image = picture.resized(crop_window(crop, picture.size, self.crop_scale), self.size)
        else:
            image = fit(picture, self.size)
            if self.crop == "padded":
                image = padded_crop(image, *crop)
        if self.flip and flip < 0.5:
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
    (*areas, down), (*ratios, right) = np.asarray(numbers, "float64").tolist()
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


def padded_crop(image, top, left):
    """A window of the image's own size, from the image with PADDING mirrored pixels around it."""
    mirrored = np.pad(as_array(image), [(PADDING, PADDING), (PADDING, PADDING), (0, 0)], "reflect")
    return as_image(mirrored[top : top + image.height, left : left + image.width])


def fit(picture, size, crop_fraction=1.0):
    """The evaluation picture, a Pillow image: as it is when it has the size, else as the published networks' presets.

    The sides that are resized to are int(size / crop_fraction); the picture keeps its aspect ratio and covers them, and
    its centre is cropped. With crop_fraction None it is resized to `size` and its aspect ratio ignored.
    """
    return picture.image if picture.size == tuple(size) else resize_and_crop(picture.image, size, crop_fraction)
