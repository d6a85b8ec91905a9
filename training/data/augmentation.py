"""Crops, flips and the evaluation resize: stateless TensorFlow ops on one picture, (H, W, C), to float32 0..255.

Every function takes a seed of its own (two int64) and nothing else that is random. Resized values are rounded and
clipped: the picture stays one that eight bits can hold, as when an image library resizes it.
"""

import math

import tensorflow as tf

CROP_ATTEMPTS = 10
ASPECT_RATIO = (3 / 4, 4 / 3)
PADDING = 4


def fold_in(seed, purpose):
    """A seed for one purpose (an int) of whatever `seed` belongs to."""
    return tf.random.fold_in(seed, tf.cast(purpose, tf.int64), alg="philox")


def resize(image, size):
    """Bicubic with antialiasing, (H, W, C) of any type -> (h, w, C) float32."""
    resized = tf.image.resize(image, size, "bicubic", antialias=True)
    return tf.clip_by_value(tf.round(resized), 0.0, 255.0)


def crop_window(seed, size, scale, ratio=ASPECT_RATIO):
    """The window (top, left, height, width) of a random resized crop.

    Area uniform in `scale` of the picture's, the logarithm of the aspect ratio (width / height) uniform; the first of
    ten draws that fits into the picture. If none does: the largest central window whose ratio is in range.

    Source:
        torchvision's RandomResizedCrop, which the paper's training used.
    """
    height, width = tf.cast(size[0], tf.float32), tf.cast(size[1], tf.float32)
    draws = tf.random.stateless_uniform([2, CROP_ATTEMPTS + 1], seed, alg="philox")
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0, :-1])
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    aspect = tf.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * draws[1, :-1])
    widths, heights = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = tf.argmax(tf.cast(fits, tf.int32))
    full_width = tf.minimum(width, tf.round(height * ratio[1]))
    full_height = tf.minimum(height, tf.round(width / ratio[0]))
    any_fits = tf.reduce_any(fits)
    crop_height = tf.where(any_fits, heights[first], full_height)
    crop_width = tf.where(any_fits, widths[first], full_width)
    # floor of a number below 1 times (n + 1): 0 .. n; the minimum guards the product's rounding in float32
    top = tf.minimum(tf.floor(draws[0, -1] * (height - crop_height + 1)), height - crop_height)
    left = tf.minimum(tf.floor(draws[1, -1] * (width - crop_width + 1)), width - crop_width)
    top = tf.where(any_fits, top, tf.round((height - crop_height) / 2))
    left = tf.where(any_fits, left, tf.round((width - crop_width) / 2))
    return tuple(tf.cast(value, tf.int32) for value in (top, left, crop_height, crop_width))


def random_resized_crop(image, seed, size, scale):
    """A random window of the picture, resized to `size` (h, w)."""
    top, left, height, width = crop_window(seed, tf.shape(image)[:2], scale)
    return resize(image[top : top + height, left : left + width], size)


def padded_random_crop(image, seed, size, padding=PADDING):
    """A window of `size` from the picture with `padding` mirrored pixels around it; it is fitted to `size` first."""
    image = fit(image, size)
    image = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]], "REFLECT")
    top, left = tf.unstack(tf.random.stateless_uniform([2], seed, 0, 2 * padding + 1, tf.int32, alg="philox"))
    return image[top : top + size[0], left : left + size[1]]


def random_flip(image, seed):
    """Mirrored left to right for half of the seeds."""
    return tf.cond(
        tf.random.stateless_uniform([], seed, alg="philox") < 0.5,
        lambda: tf.reverse(image, [1]),
        lambda: image,
    )


def fit(image, size, crop_fraction=1.0):
    """The evaluation picture: as it is when it has the size, else resized and cropped at the centre.

    The sides that are resized to are int(size / crop_fraction); the picture keeps its aspect ratio and covers them, the
    longer side being rounded down. With crop_fraction None the picture is resized to `size` and its aspect ratio
    ignored.

    Source:
        torchvision's Resize and CenterCrop, with their rounding: the offset goes to the even neighbour of a half.
    """

    def resized():
        if crop_fraction is None:
            return resize(image, size)
        target = tf.constant([int(side / crop_fraction) for side in size], tf.int64)
        height, width = tf.unstack(tf.shape(image, tf.int64)[:2])
        by_height = target[0] * width >= target[1] * height  # then the width is large enough too
        new_height = tf.where(by_height, target[0], target[1] * height // width)
        new_width = tf.where(by_height, target[0] * width // height, target[1])
        larger = resize(image, tf.cast(tf.stack([new_height, new_width]), tf.int32))
        top = tf.cast(tf.round((new_height - size[0]) / 2), tf.int32)
        left = tf.cast(tf.round((new_width - size[1]) / 2), tf.int32)
        return larger[top : top + size[0], left : left + size[1]]

    same = tf.reduce_all(tf.shape(image)[:2] == tf.constant(size))
    fitted = tf.cond(same, lambda: tf.cast(image, tf.float32), resized)
    fitted.set_shape([size[0], size[1], image.shape[-1]])
    return fitted
