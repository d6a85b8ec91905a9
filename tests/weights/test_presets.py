"""The table of published weights: complete, true, and helpful when asked for what is not in it."""

import collections
import dataclasses

import pytest

import keras_convnextv2 as kc
from keras_convnextv2 import EvaluationTransform
from keras_convnextv2.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_convnextv2.sizes import SIZES
from keras_convnextv2.weights.presets import PRESETS, UnknownPreset, find_preset
from tests.weights.small_files import DEPTHS, DIMS, network

CROP, SQUASH = "convnextv2_tiny.fcmae_ft_in1k", "convnextv2_tiny.fcmae_ft_in22k_in1k_384"
TIMM = [preset for preset in kc.list_presets() if preset.hub.startswith("timm/")]
HUGGING_FACE = [preset for preset in kc.list_presets() if preset.hub.startswith("facebook/")]


def parameters(depths, dims, classes):
    """Counted from the paper's layers; without classes the encoder alone, without the final norm."""
    stem = 48 * dims[0] + dims[0] + 2 * dims[0]
    down = sum(2 * a + 4 * a * b + b for a, b in zip(dims, dims[1:], strict=False))
    block = [49 * c + c + 2 * c + 4 * c * c + 4 * c + 8 * c + 4 * c * c + c for c in dims]
    top = 2 * dims[-1] + classes * dims[-1] + classes if classes else 0
    return stem + down + sum(n * count for n, count in zip(depths, block, strict=True)) + top


def test_the_formula_counts_what_is_built():
    assert parameters(DEPTHS, DIMS, 5) == network().count_params()
    assert parameters(DEPTHS, DIMS, 0) == network(include_top=False).count_params()


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_parameters_are_those_of_the_network(preset):
    assert preset.parameters == parameters(*SIZES[preset.size], preset.classes)


def test_all_published_rows_are_there():
    assert (len(TIMM), len(HUGGING_FACE), len(PRESETS)) == (26, 18, 44)
    counts = collections.Counter(preset.tag for preset in TIMM)
    assert counts == {
        "fcmae": 8,
        "fcmae_ft_in1k": 8,
        "fcmae_ft_in22k_in1k": 4,
        "fcmae_ft_in22k_in1k_384": 5,
        "fcmae_ft_in22k_in1k_512": 1,
    }
    assert collections.Counter(preset.tag for preset in HUGGING_FACE) == {
        "1k-224": 8,
        "22k-224": 4,
        "22k-384": 5,
        "22k-512": 1,
    }
    assert len({preset.official for preset in TIMM}) == 26


FACTS = {
    "convnextv2_huge.fcmae": {
        "hub": "timm/convnextv2_huge.fcmae",
        "size": "huge",
        "tag": "fcmae",
        "classes": 0,
        "input_size": 224,
        "test_size": None,
        "top1": None,
        "parameters": 657_467_008,
        "official": "pt_only/convnextv2_huge_1k_224_fcmae.pt",
    },
    "convnextv2_pico.fcmae_ft_in1k": {
        "classes": 1000,
        "input_size": 224,
        "crop": 0.875,
        "crop_mode": "center",
        "test_size": 288,
        "test_crop": 0.95,
        "top1": 80.3,
        "top1_timm": 80.304,
        "top1_test": 81.062,
        "official": "im1k/convnextv2_pico_1k_224_ema.pt",
    },
    "convnextv2_large.fcmae_ft_in22k_in1k": {"test_size": 288, "test_crop": 1.0, "top1": 87.3, "top1_test": 87.494},
    "convnextv2_tiny.fcmae_ft_in22k_in1k_384": {
        "input_size": 384,
        "crop": 1.0,
        "crop_mode": "squash",
        "test_size": None,
        "test_crop": None,
        "top1": 85.1,
        "parameters": 28_635_496,
        "official": "im22k/convnextv2_tiny_22k_384_ema.pt",
    },
    "convnextv2-huge-22k-512": {
        "hub": "facebook/convnextv2-huge-22k-512",
        "tag": "22k-512",
        "classes": 1000,
        "input_size": 512,
        "crop": 1.0,
        "crop_mode": "squash",
        "top1": 88.9,
    },
    "convnextv2-nano-1k-224": {"classes": 1000, "crop": 0.875, "crop_mode": "center", "top1": 81.9},
}


@pytest.mark.parametrize("name", FACTS)
def test_rows_hold_the_published_facts(name):
    row = dataclasses.asdict(PRESETS[name])
    assert {key: row[key] for key in FACTS[name]} == FACTS[name]


def test_what_all_rows_share():
    for preset in PRESETS.values():
        assert (preset.licence, preset.file, preset.interpolation) == ("cc-by-nc-4.0", "model.safetensors", "bicubic")
        assert (preset.mean, preset.std) == (IMAGENET_MEAN, IMAGENET_STD)
        assert preset.input_shape == (preset.input_size, preset.input_size, 3)
        assert f"_{preset.size}_" in preset.official and preset.hub.endswith("/" + preset.name)


def test_list_of_a_size():
    names = [preset.name for preset in kc.list_presets("femto")]
    assert names == ["convnextv2_femto.fcmae", "convnextv2_femto.fcmae_ft_in1k", "convnextv2-femto-1k-224"]
    assert kc.list_presets() == tuple(PRESETS.values())
    with pytest.raises(ValueError, match="of the sizes atto, .* Received: size='small'"):
        kc.list_presets("small")


@pytest.mark.parametrize(
    "asked, found",
    [
        (("imagenet", "tiny"), "convnextv2_tiny.fcmae_ft_in1k"),
        (("fcmae_ft_in22k_in1k_512", "huge"), "convnextv2_huge.fcmae_ft_in22k_in1k_512"),
        (("22k-384", "nano"), "convnextv2-nano-22k-384"),
        (("convnextv2_atto.fcmae",), "convnextv2_atto.fcmae"),
        (("timm/convnextv2_atto.fcmae", "atto"), "convnextv2_atto.fcmae"),
        (("facebook/convnextv2-base-1k-224",), "convnextv2-base-1k-224"),
    ],
)
def test_names_that_find_a_row(asked, found):
    assert find_preset(*asked).name == found


@pytest.mark.parametrize(
    "asked, error, words",
    [
        (("imagenett", "tiny"), UnknownPreset, "no preset is called 'imagenett'; close to it: imagenet, "),
        (("convnextv2_tiny_fcmae",), UnknownPreset, "close to it: convnextv2_tiny.fcmae, "),
        (("fcmae_ft_in22k_in1k", "pico"), ValueError, "'fcmae_ft_in22k_in1k' does not exist for size pico. Presets of"),
        (("fcmae_ft_in22k_in1k", "pico"), ValueError, ": convnextv2_pico.fcmae, convnextv2_pico.fcmae_ft_in1k, conv"),
        (("convnextv2_tiny.fcmae", "base"), ValueError, "is of size tiny, not base. Presets of base: convnextv2_base"),
        (("imagenet",), ValueError, "several sizes: name one in full, such as 'convnextv2_atto.fcmae_ft_in1k'"),
        (("imagenet", "a size of my own"), ValueError, "huge). Received: a size of my own"),
    ],
)
def test_names_that_find_none(asked, error, words):
    with pytest.raises(error) as info:
        find_preset(*asked)
    assert type(info.value) is error and "\n" not in str(info.value)
    assert words in str(info.value), str(info.value)


@pytest.mark.parametrize(
    "name, size, options, expected",
    [
        (CROP, None, {}, EvaluationTransform(224, 0.875)),
        (SQUASH, None, {}, EvaluationTransform(384, 1.0, squash=True)),
        ("fcmae_ft_in1k", "atto", {"at_test_size": True}, EvaluationTransform(288, 0.95)),
        ("imagenet", "tiny", {"at_test_size": True}, EvaluationTransform(288, 1.0)),
        ("facebook/convnextv2-base-22k-384", None, {}, EvaluationTransform(384, 1.0, squash=True)),
    ],
)
def test_a_preset_says_how(name, size, options, expected):
    assert kc.preset_transform(name, size, **options) == expected


def test_a_preset_without_a_test_size():
    with pytest.raises(ValueError, match=f"{SQUASH}' has no test size, only its input size 384"):
        kc.preset_transform(SQUASH, at_test_size=True)
