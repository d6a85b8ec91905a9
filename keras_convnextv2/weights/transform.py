"""The picture that a published network was evaluated on: resize and crop as its preset says."""

import dataclasses
import os

import numpy as np

from keras_convnextv2.weights.presets import find_preset


def preset_transform(name, size=None, *, at_test_size=False):
    """From a picture to the evaluation picture of a preset: an `EvaluationTransform`.

    Args:
        name, size: of the preset, as in `list_presets`; with a size a tag is enough.
        at_test_size: the larger picture that timm evaluates too, where the preset has one.
    Raises:
        ValueError: no such preset, or it has no test size.
    Example:
        >>> transform = keras_convnextv2.preset_transform("convnextv2_tiny.fcmae_ft_in1k")
        >>> model.predict(transform("cat.jpg")[None])
    """
    preset = find_preset(name, size)
    if not at_test_size:
        return EvaluationTransform(preset.input_size, preset.crop, squash=preset.crop_mode == "squash")
    if preset.test_size is None:
        raise ValueError(f"preset {preset.name!r} has no test size, only its input size {preset.input_size}")
    return EvaluationTransform(preset.test_size, preset.test_crop, squash=preset.crop_mode == "squash")


@dataclasses.dataclass(frozen=True)
class EvaluationTransform:
    """Bicubic resize with antialias and centre crop: any picture to (size, size, 3) uint8, values 0..255.

    The short side goes to int(size / crop), the long side keeps the aspect ratio, rounded down; with `squash` both
    sides go to the size. Grey and other modes of 8 bits become RGB. Nothing is normalised: models do that inside unless
    they were made with include_preprocessing=False, which need `preprocess_input` after this.

    Two routes. Called, it works by Pillow and equals torchvision's transforms on Pillow images bit for bit. `tensor`
    does the same with TensorFlow, for tf.data. Pillow rounds to 8 bits between its two passes, which no single bicubic
    in float can equal (0.08 to 0.22 grey levels on average, up to 9 at single pixels); `tensor` rounds there too. On
    240 ImageNet photos it differs from Pillow 13 by 0.0006 levels on average when cropping and by 0.03 when squashing;
    the worst photo by 0.22, with 99.93% of its pixels within 4. Pillow 13 takes the vertical pass first in pictures
    that lose more height than width, and the order of two rounded passes matters.

    Args:
        size: side of the picture in pixels.
        crop: `size` as a share of the short side before the crop.
        squash: resize both sides to `size` and crop nothing.
    Source:
        Reference datasets.py, build_transform: Resize and CenterCrop of torchvision, "squash" from 384 pixels on.
    """

    size: int
    crop: float = 0.875
    squash: bool = False

    def __call__(self, picture):
        """The path of a picture, a PIL image, or an array (H, W, 3) or (H, W) uint8 -> array (size, size, 3) uint8."""
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError('preset transforms need Pillow: pip install "keras_convnextv2[weights]"') from error
        if isinstance(picture, str | os.PathLike):
            with Image.open(picture) as opened:
                return self(opened)
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(_checked(picture))
        if picture.mode.startswith(("I", "F")):  # Pillow would clip 16 bits at 255: a white picture
            raise ValueError(f"a picture must have 8 bits a channel. Received: mode {picture.mode!r}")
        crop = None if self.squash else self.crop
        return np.array(resize_and_crop(picture.convert("RGB"), (self.size, self.size), crop))

    def tensor(self, picture):
        """The bytes of a picture file, or a uint8 tensor (H, W, 3) -> uint8 tensor (size, size, 3), in a graph too."""
        import tensorflow as tf

        picture = tf.convert_to_tensor(picture)
        if picture.dtype == tf.string:
            picture = _decoded(picture)
        if picture.dtype != tf.uint8:
            raise ValueError(f"a picture must be the bytes of a file or a uint8 tensor. Received: {picture.dtype.name}")
        shape = tf.cast(tf.shape(picture), tf.int64)
        crop = None if self.squash else self.crop
        sides = _resized(shape[0], shape[1], (self.size, self.size), crop, larger=tf.maximum)
        height, width = (tf.cast(side, tf.int32) for side in sides)
        # Pillow's two passes, each rounded to 8 bits
        for sides in ((tf.shape(picture)[0], width), (height, width)):
            picture = tf.image.resize(picture, tf.stack(sides), "bicubic", antialias=True)
            picture = tf.clip_by_value(tf.round(picture), 0, 255)
        top, left = (tf.cast(tf.round((side - self.size) / 2), tf.int32) for side in (height, width))
        picture = tf.cast(picture[top : top + self.size, left : left + self.size], tf.uint8)
        return tf.ensure_shape(picture, (self.size, self.size, 3))


def resize_and_crop(picture, size, crop):
    """A Pillow image at `size` (height, width): the centre of one that covers size / crop; crop None squashes."""
    from PIL import Image

    height, width = _resized(picture.height, picture.width, size, crop)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    top, left = (round((side - kept) / 2) for side, kept in ((height, size[0]), (width, size[1])))  # half to even
    return picture.crop((left, top, left + size[1], top + size[0]))


def _resized(height, width, size, crop, larger=max):
    """Height and width before the crop, the longer side rounded down; integers or integer tensors."""
    if crop is None:
        return size
    target = [int(side / crop) for side in size]
    return larger(target[1] * height // width, target[0]), larger(target[0] * width // height, target[1])


def _decoded(content):
    import tensorflow as tf

    # TensorFlow's default is a faster and coarser cosine transform than everybody else's
    return tf.cond(
        tf.io.is_jpeg(content),
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(content, channels=3, expand_animations=False),
    )


def _checked(picture):
    array = np.asarray(picture)
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] == 3):
        raise ValueError(
            "a picture must be a path, a PIL image, or an array (H, W, 3) or (H, W) of uint8. "
            f"Received: {type(picture).__name__} of {array.dtype}, shape {array.shape}"
        )
    return array
