"""The published weights as data: the 26 files of timm and the 18 of Hugging Face, and how to ask for one."""

import dataclasses
import difflib

from keras_convnextv2.preprocessing import IMAGENET_MEAN, IMAGENET_STD, EvaluationTransform, published_crop
from keras_convnextv2.sizes import SIZES
from keras_convnextv2.weights.readers import HUB_FILE

OFFICIAL_FOLDER = "https://dl.fbaipublicfiles.com/convnext/convnextv2/"  # where the authors keep their files
IMAGENET = "fcmae_ft_in1k"  # what weights="imagenet" means


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """One published file.

    Args:
        name: its repository without the owner, such as "convnextv2_tiny.fcmae_ft_in22k_in1k_384".
        hub: its repository, owner/name.
        file: the file in it.
        size: "atto" ... "huge".
        tag: the name without the size, such as "fcmae_ft_in22k_in1k_384" or "22k-384".
        classes: of the head; 0 where the file is an encoder without norm and head.
        input_size: side of the picture in pixels.
        crop: the input size as a share of the short side before the centre crop.
        crop_mode: "center", or "squash": both sides to the input size, no crop.
        test_size, test_crop: the larger picture that timm evaluates too, or None.
        interpolation, mean, std: of the preprocessing; mean and std as fractions of 1.
        top1: ImageNet accuracy in percent as the authors publish it; None for the encoders.
        top1_timm, top1_test: the same as timm measured it, at the input size and at the test size.
        parameters: numbers in the file.
        licence: of the weights.
        official: the authors' file of the same network, under `OFFICIAL_FOLDER`.
    """

    name: str
    hub: str
    file: str = HUB_FILE
    size: str
    tag: str
    classes: int
    input_size: int
    crop: float
    crop_mode: str
    test_size: int | None
    test_crop: float | None
    interpolation: str = "bicubic"
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    top1: float | None
    top1_timm: float | None
    top1_test: float | None
    parameters: int
    # The authors' licence for the weights (README and LICENSE of facebookresearch/ConvNeXt-V2). The pages of
    # facebook/convnextv2-* on Hugging Face are tagged apache-2.0; who uploads a file cannot widen its licence.
    licence: str = "cc-by-nc-4.0"
    official: str

    @property
    def input_shape(self):
        return (self.input_size, self.input_size, 3)


# Numbers of a size: with the 1000-class head, and of the encoder alone (what pre-training publishes).
_PARAMETERS = {
    "atto": (3_708_400, 3_386_760),
    "femto": (5_233_240, 4_847_472),
    "pico": (9_066_280, 8_552_256),
    "nano": (15_623_800, 14_981_520),
    "tiny": (28_635_496, 27_864_960),
    "base": (88_717_800, 87_690_752),
    "large": (197_956_840, 196_416_768),
    "huge": (660_289_640, 657_467_008),
}

# timm's tag: Hugging Face's (where "22k" too means 1000 classes), classes, input size, authors' file
_KINDS = {
    "fcmae": (None, 0, 224, "pt_only/convnextv2_{}_1k_224_fcmae.pt"),
    "fcmae_ft_in1k": ("1k-224", 1000, 224, "im1k/convnextv2_{}_1k_224_ema.pt"),
    "fcmae_ft_in22k_in1k": ("22k-224", 1000, 224, "im22k/convnextv2_{}_22k_224_ema.pt"),
    "fcmae_ft_in22k_in1k_384": ("22k-384", 1000, 384, "im22k/convnextv2_{}_22k_384_ema.pt"),
    "fcmae_ft_in22k_in1k_512": ("22k-512", 1000, 512, "im22k/convnextv2_{}_22k_512_ema.pt"),
}

# size, timm's tag; top-1 in percent: the authors' README, timm at the input size, timm at 288 with the crop behind it
_NETWORKS = (
    *((size, "fcmae", None, None, None, None) for size in SIZES),
    ("atto", "fcmae_ft_in1k", 76.7, 76.644, 77.794, 0.95),
    ("femto", "fcmae_ft_in1k", 78.5, 78.476, 79.342, 0.95),
    ("pico", "fcmae_ft_in1k", 80.3, 80.304, 81.062, 0.95),
    ("nano", "fcmae_ft_in1k", 81.9, 81.856, 82.490, 1.0),
    ("tiny", "fcmae_ft_in1k", 83.0, 82.948, 83.478, 1.0),
    ("base", "fcmae_ft_in1k", 84.9, 84.890, 85.490, 1.0),
    ("large", "fcmae_ft_in1k", 85.8, 85.762, 86.132, 1.0),
    ("huge", "fcmae_ft_in1k", 86.3, 86.260, 86.618, 1.0),
    ("nano", "fcmae_ft_in22k_in1k", 82.1, 82.038, 82.666, 1.0),
    ("nano", "fcmae_ft_in22k_in1k_384", 83.4, 83.366, None, None),
    ("tiny", "fcmae_ft_in22k_in1k", 83.9, 83.904, 84.428, 1.0),
    ("tiny", "fcmae_ft_in22k_in1k_384", 85.1, 85.098, None, None),
    ("base", "fcmae_ft_in22k_in1k", 86.8, 86.752, 86.994, 1.0),
    ("base", "fcmae_ft_in22k_in1k_384", 87.7, 87.638, None, None),
    ("large", "fcmae_ft_in22k_in1k", 87.3, 87.266, 87.494, 1.0),
    ("large", "fcmae_ft_in22k_in1k_384", 88.2, 88.180, None, None),
    ("huge", "fcmae_ft_in22k_in1k_384", 88.7, 88.666, None, None),
    ("huge", "fcmae_ft_in22k_in1k_512", 88.9, 88.860, None, None),
)


def _rows():
    """{name: Preset}, first timm's, then the same fine-tuned networks at Hugging Face."""
    timm, hugging_face = [], []
    for size, tag, top1, top1_timm, top1_test, test_crop in _NETWORKS:
        twin, classes, input_size, official = _KINDS[tag]
        crop, crop_mode = published_crop(input_size)
        facts = {
            "size": size,
            "classes": classes,
            "input_size": input_size,
            "crop": crop,
            "crop_mode": crop_mode,
            "test_size": test_crop and 288,
            "test_crop": test_crop,
            "top1": top1,
            "top1_timm": top1_timm,
            "top1_test": top1_test,
            "parameters": _PARAMETERS[size][0 if classes else 1],
            "official": official.format(size),
        }
        name = f"convnextv2_{size}.{tag}"
        timm.append(Preset(name=name, hub=f"timm/{name}", tag=tag, **facts))
        if twin:
            name = f"convnextv2-{size}-{twin}"
            hugging_face.append(Preset(name=name, hub=f"facebook/{name}", tag=twin, **facts))
    return {preset.name: preset for preset in (*timm, *hugging_face)}


PRESETS = _rows()


class UnknownPreset(ValueError):
    """No published file has this name. Its message is a clause: "no preset is called ..."."""


def list_presets(size=None):
    """The published weights.

    Args:
        size: "atto" ... "huge", or None for all.
    Returns:
        A tuple of `Preset`: name, size, classes, input size, preprocessing, top-1, parameters, licence, hub file.
    Raises:
        ValueError: there is no such size.
    Example:
        >>> [preset.name for preset in keras_convnextv2.list_presets("femto")]
        ['convnextv2_femto.fcmae', 'convnextv2_femto.fcmae_ft_in1k', 'convnextv2-femto-1k-224']
    """
    if size is not None and size not in SIZES:
        raise ValueError(f"presets are of the sizes {', '.join(SIZES)}. Received: size={size!r}")
    return tuple(preset for preset in PRESETS.values() if size in (None, preset.size))


def find_preset(name, size=None):
    """The `Preset` of that name.

    Args:
        name: a full name, with or without its owner; with a size also a tag, or "imagenet" for `fcmae_ft_in1k`.
        size: "atto" ... "huge", the only size that is wanted, or None for any.
    Raises:
        ValueError: the preset is of another size, or the size has no row of that tag (the size's rows are listed);
            there is no such size; a tag without a size.
        UnknownPreset: the name is nobody's (a ValueError); the closest ones are listed.
    """
    tag = IMAGENET if name == "imagenet" else name
    called = [preset for preset in PRESETS.values() if name in (preset.name, preset.hub)]
    tagged = [preset for preset in PRESETS.values() if preset.tag == tag]
    if not called and not tagged:
        raise UnknownPreset(f"no preset is called {name!r}; close to it: {', '.join(_closest(name, size))}")
    if size is None and not called:
        raise ValueError(f"preset {name!r} exists for several sizes: name one in full, such as {tagged[0].name!r}")
    if size is not None and size not in SIZES:
        raise ValueError(f"preset {name!r} needs a model of a published size ({', '.join(SIZES)}). Received: {size}")
    found = [preset for preset in called or tagged if size in (None, preset.size)]
    if not found:
        rows = ", ".join(preset.name for preset in list_presets(size))
        why = f"is of size {called[0].size}, not {size}" if called else f"does not exist for size {size}"
        raise ValueError(f"preset {name!r} {why}. Presets of {size}: {rows}")
    return found[0]


def _closest(name, size):
    """The names most like this one; tags too where the size is known."""
    rows = [preset for preset in PRESETS.values() if preset.size == size] or PRESETS.values()
    forms = [form for preset in rows for form in (preset.name, *((preset.tag,) if size else ()))]
    if size:
        forms.append("imagenet")
    return dict.fromkeys(difflib.get_close_matches(str(name), forms, n=3, cutoff=0.0))


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
