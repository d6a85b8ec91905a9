"""From pictures to what the network eats, and from its scores to names."""

import dataclasses
import functools
import importlib.resources
import os

import numpy as np
from keras import ops

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB as fractions of 1: what every published checkpoint was trained with
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_FRACTION = 224 / 256  # of the short side: the picture that the published networks were evaluated on
WHOLE_FROM = 384  # pictures of this side and more were evaluated whole, both sides at their size
THIN = 16  # a picture that is so many times as long as it is high, or high as it is long
CLASSES_FILE = "imagenet_classes.txt"  # a line a class, in the order of the network's outputs: WordNet id, name


def channel_statistics(channels, mean=None, std=None):
    """Mean and standard deviation per channel, as fractions of 1.

    Three channels are RGB and get ImageNet's statistics. Any other count gets the average of the RGB statistics in
    every channel, which keeps the scale right and claims nothing about the colours.

    Args:
        channels: how many channels the images have.
        mean, std: None, or one number a channel, which is returned as it is.
    Returns:
        (mean, std), two tuples of floats.
    Raises:
        ValueError: a wrong number of values, or a std that is not positive.
    """
    chosen = []
    for name, given, rgb in (("mean", mean, IMAGENET_MEAN), ("std", std, IMAGENET_STD)):
        if given is None:
            given = rgb if channels == len(rgb) else (sum(rgb) / len(rgb),) * channels
        values = tuple(float(value) for value in np.ravel(given))
        if len(values) != channels:
            raise ValueError(
                f"{name} must hold one number per channel ({channels}, as fractions of 1). Received: {name}={given!r}"
            )
        chosen.append(values)
    if min(chosen[1]) <= 0:
        raise ValueError(f"std must be positive in every channel. Received: std={std!r}")
    return chosen[0], chosen[1]


def preprocess_input(x, data_format=None):
    """Returns `x` as it is: the models normalise inside, as those of `keras.applications.convnext` do.

    For a model of `include_preprocessing=False` take `normalize`.

    Args:
        x: pictures with values 0..255.
        data_format: has no effect.
    """
    return x


def normalize(images, mean=None, std=None):
    """Normalise pictures: (x / 255 - mean) / std in float32.

    Models with `include_preprocessing=True` do this inside; this function is for the others.

    Args:
        images: pictures with values 0..255 of any number type, a numpy array or a tensor; channels last.
        mean, std: per channel, fractions of 1; see `channel_statistics` for what None means.
    Returns:
        float32, the same kind and shape as images.
    Shapes:
        (..., C): one picture or a batch.
    """
    if isinstance(images, list | tuple):
        images = np.asarray(images)
    if len(images.shape) < 3:
        raise ValueError(f"pictures must have shape (H, W, C) or (B, H, W, C). Received: shape {tuple(images.shape)}")
    mean, std = channel_statistics(int(images.shape[-1]), mean, std)
    mean, std = np.asarray(mean, "float32"), np.asarray(std, "float32")
    if isinstance(images, np.ndarray):
        return (images.astype("float32") / np.float32(255) - mean) / std
    return (ops.cast(images, "float32") / 255.0 - mean) / std


def published_crop(side):
    """(share of the short side, timm's crop mode) in the evaluation of published networks of this picture size."""
    return (1.0, "squash") if side >= WHOLE_FROM else (CROP_FRACTION, "center")


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
    crop_fraction: float = CROP_FRACTION
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
    top, left = (round((side - kept) / 2) for side, kept in ((height, size[0]), (width, size[1])))  # half to even
    if max(height, width) > THIN * min(height, width):  # of a very long picture only what stays is resized
        rows, columns = picture.height / height, picture.width / width
        right, bottom = (left + size[1]) * columns, (top + size[0]) * rows
        box = (left * columns, top * rows, min(right, picture.width), min(bottom, picture.height))
        return picture.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
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


@functools.cache
def imagenet_classes():
    """((WordNet id, name), ...) of the 1000 ImageNet classes, in the order of the network's outputs."""
    text = importlib.resources.files(__package__).joinpath(CLASSES_FILE).read_text(encoding="utf-8")
    return tuple(tuple(line.split(" ")) for line in text.splitlines())


def decode_predictions(preds, top=5, class_names=None):
    """The most likely classes of each sample.

    Args:
        preds: (N, classes) scores of a classifier, probabilities or logits; numpy array or tensor.
        top: how many classes a sample; at most as many as there are.
        class_names: a name for each class, of a classifier of one's own; None for ImageNet's 1000.
    Returns:
        A list per sample of (WordNet id, name, score), best first; with `class_names` of (number of the class, name,
        score).
    """
    scores = ops.convert_to_numpy(preds)
    classes = imagenet_classes() if class_names is None else tuple(enumerate(class_names))
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        whose = "the ImageNet classes; others need class_names" if class_names is None else "one a class name"
        raise ValueError(f"preds must have shape (N, {len(classes)}), {whose}. Received: shape {tuple(scores.shape)}")
    top = min(top, len(classes)) if class_names is not None else top  # the default of five is no mistake for three
    if not 1 <= top <= len(classes):
        raise ValueError(f"top must be in [1, {len(classes)}]. Received: {top!r}")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [[(*classes[i], float(row[i])) for i in order] for row, order in zip(scores, best, strict=True)]
