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
    they were made with include_preprocessing=False, which need `keras_convnextv2.normalize` after this.

    It works by Pillow and equals torchvision's transforms on Pillow images bit for bit.

    Args:
        size: side of the picture in pixels.
        crop_fraction: `size` as a share of the short side before the crop.
        squash: resize both sides to `size` and crop nothing.
    Source:
        Reference datasets.py, build_transform: Resize and CenterCrop of torchvision, "squash" from 384 pixels on.
    """

    size: int
    crop_fraction: float = 0.875
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
        crop = None if self.squash else self.crop_fraction
        return np.array(resize_and_crop(picture.convert("RGB"), (self.size, self.size), crop))


def resize_and_crop(picture, size, crop):
    """A Pillow image at `size` (height, width): the centre of one that covers size / crop; crop None squashes."""
    from PIL import Image

    height, width = _resized(picture.height, picture.width, size, crop)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    top, left = (round((side - kept) / 2) for side, kept in ((height, size[0]), (width, size[1])))  # half to even
    return picture.crop((left, top, left + size[1], top + size[0]))


def _resized(height, width, size, crop):
    """Height and width before the crop, the longer side rounded down."""
    if crop is None:
        return size
    target = [int(side / crop) for side in size]
    return max(target[1] * height // width, target[0]), max(target[0] * width // height, target[1])


def _checked(picture):
    array = np.asarray(picture)
    if array.dtype != np.uint8 or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] == 3):
        raise ValueError(
            "a picture must be a path, a PIL image, or an array (H, W, 3) or (H, W) of uint8. "
            f"Received: {type(picture).__name__} of {array.dtype}, shape {array.shape}"
        )
    return array
