"""The evaluation picture of a preset: torchvision's, bit for bit."""

import sys
import tarfile

import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2 import EvaluationTransform

Image = pytest.importorskip("PIL.Image")

CROP, SQUASH = "convnextv2_tiny.fcmae_ft_in1k", "convnextv2_tiny.fcmae_ft_in22k_in1k_384"


@pytest.fixture(scope="module")
def photos(data_folder):
    """{name: content} of the JPEG files."""
    with tarfile.open(data_folder / "imagenet_photos.tar") as archive:
        return {member.name.split("/")[-1]: archive.extractfile(member).read() for member in archive}


@pytest.fixture(scope="module")
def wide():
    """A picture without any symmetry, 96 x 61."""
    return np.random.default_rng(0).integers(0, 256, (61, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize("name, key", [(CROP, "crop224"), (SQUASH, "squash384")])
def test_pictures_of_torchvision_bit_for_bit(oracle, photos, tmp_path, name, key):
    expected = np.load(oracle / "preprocess_expected.npz")
    transform, compared = kc.preset_transform(name), 0
    for photo, picture in zip(expected["names"], expected[key], strict=True):
        if photo in photos:  # two of the six: one in colour, one grey
            path = tmp_path / photo
            path.write_bytes(photos[photo])
            np.testing.assert_array_equal(transform(path), picture)
            np.testing.assert_array_equal(transform(str(path)), picture)
            np.testing.assert_array_equal(transform(Image.open(path)), picture)
            compared += 1
    assert compared == 2


@pytest.mark.parametrize(
    "turned, crop, resized, corner",
    [
        (False, 1.0, (50, 32), (9, 0)),
        (True, 1.0, (32, 50), (0, 9)),
        (False, 0.9, (55, 35), (12, 2)),  # 11.5 and 1.5
        (False, 0.8, (62, 40), (15, 4)),
        (False, 0.84, (59, 38), (14, 3)),  # 13.5
    ],
)
def test_long_side_is_rounded_down_and_half_an_offset_goes_to_the_even_neighbour(wide, turned, crop, resized, corner):
    picture = Image.fromarray(wide.swapaxes(0, 1) if turned else wide)
    left, top = corner
    expected = picture.resize(resized, Image.Resampling.BICUBIC).crop((left, top, left + 32, top + 32))
    np.testing.assert_array_equal(EvaluationTransform(32, crop)(picture), np.asarray(expected))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_other_modes_become_rgb(wide, mode):
    transform, other = EvaluationTransform(32), Image.fromarray(wide).convert(mode)
    np.testing.assert_array_equal(transform(other), transform(np.asarray(other.convert("RGB"))))


def test_grey_arrays(wide):
    transform = EvaluationTransform(32)
    np.testing.assert_array_equal(transform(wide[..., 0]), transform(np.repeat(wide[..., :1], 3, axis=-1)))


@pytest.mark.parametrize(
    "picture, received",
    [(np.zeros((9, 9, 3), "float32"), "float32, shape (9, 9, 3)"), (np.zeros((9, 9, 4), "uint8"), "shape (9, 9, 4)")],
)
def test_other_arrays_are_refused(picture, received):
    with pytest.raises(ValueError, match="a path, a PIL image, or an array") as info:
        EvaluationTransform(32)(picture)
    assert received in str(info.value) and "\n" not in str(info.value)


def test_missing_pillow_names_the_extra(wide, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'Pillow: pip install "keras_convnextv2\[weights\]"'):
        EvaluationTransform(32)(wide)


def test_sixteen_bits_are_refused_and_the_answer_is_writable():
    transform = kc.preset_transform("convnextv2_atto.fcmae_ft_in1k")
    with pytest.raises(ValueError, match="8 bits a channel. Received: mode 'I;16'"):
        transform(Image.fromarray(np.zeros((300, 280), "uint16")))
    assert transform(np.zeros((300, 280), "uint8")).flags.writeable
