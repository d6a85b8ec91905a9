import os
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.training.data.conftest import GOLDEN, assert_close_moments
from training.data import augmentation
from training.data.augmentation import Augmentation, ColorJitter, Erasing
from training.data.decode import Encoded, Pixels


def noise(height, width, channels=3):
    return Pixels(np.random.default_rng(0).integers(0, 256, (height, width, channels), "uint8"))


def generators(count):
    return (np.random.default_rng([7, n]) for n in range(count))


def windows_of(size, scale, count=3000):
    """(top, left, height, width) of crops, each an array."""
    draws = (rng.random((2, augmentation.ATTEMPTS + 1)) for rng in generators(count))
    return np.array([augmentation.crop_window(numbers, size, scale) for numbers in draws]).T


@pytest.fixture(scope="module")
def windows():
    return windows_of((60, 100), (0.2, 1.0))


def test_windows_lie_in_the_picture_and_in_range(windows):
    top, left, height, width = windows
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 60).all() and (left + width <= 100).all()
    area, ratio = height * width / 6000, width / height
    assert area.min() > 0.19 and area.max() <= 1
    assert ratio.min() > 0.72 and ratio.max() < 1.38  # 3/4 .. 4/3, before the sides are rounded


def test_windows_reach_all_places(windows):
    top, left, height, width = windows
    position = left / np.maximum(100 - width, 1)
    assert abs(position.mean() - 0.5) < 0.03 and (left == 0).any()
    assert (((left + width == 100) & (left > 0)).any()) and ((top + height == 60) & (top > 0)).any()
    assert (top == 0).any()


def test_areas_and_ratios_follow_their_distributions():
    # in a large square picture hardly any draw is refused below .5 of the area
    _, _, height, width = windows_of((4000, 4000), (0.2, 0.5))
    area, log_ratio = height / 4000 * (width / 4000), np.log(width / height)
    assert abs(area.mean() - 0.35) < 0.01 and abs((area < 0.275).mean() - 0.25) < 0.03
    assert abs(log_ratio.mean()) < 0.02 and abs(log_ratio.std() - np.log(16 / 9) / np.sqrt(12)) < 0.01


@pytest.mark.parametrize("size, window", [((10, 100), (0, 44, 10, 13)), ((100, 10), (44, 0, 13, 10))])
def test_a_long_picture_falls_back_to_its_centre(size, window):
    # the whole area never fits with a ratio of 3/4 .. 4/3
    assert augmentation.crop_window(np.full((2, 11), 0.4), size, (1.0, 1.0)) == window


def test_the_largest_numbers_stay_in_the_picture():
    largest = np.full((2, 11), np.nextafter(np.float32(1), np.float32(0)))
    top, left, height, width = augmentation.crop_window(largest, (4001, 5003), (0.2, 0.5))
    assert (top + height, left + width) == (4001, 5003)


def test_random_resized_crop_of_the_whole_is_a_resize():
    picture, crop = noise(48, 64), Augmentation((24, 40), "random_resized", (1.0, 1.0), False)
    done = crop(np.random.default_rng(0), picture)  # 4/3: the fallback keeps all
    np.testing.assert_array_equal(done, Image.fromarray(picture.array).resize((40, 24), Image.Resampling.BICUBIC))
    assert done.dtype == np.uint8


def test_padded_crop_takes_every_shift_of_the_mirrored_picture():
    picture = noise(8, 12)
    mirrored = np.pad(picture.array, ((4, 4), (4, 4), (0, 0)), "reflect")
    places = {mirrored[t : t + 8, x : x + 12].tobytes(): (t, x) for t in range(9) for x in range(9)}
    padded = Augmentation((8, 12), "padded", (1, 1), False)
    crops = [padded(rng, picture) for rng in generators(1000)]
    seen = [places[crop.tobytes()] for crop in crops]  # a KeyError is a crop that is no window
    assert len(set(seen)) == 81


@pytest.mark.parametrize("channels", [1, 3])
def test_half_of_the_pictures_are_flipped(channels):
    picture, plain = noise(24, 20, channels), Augmentation((24, 20), "none", (1, 1), True)
    done = [plain(rng, picture) for rng in generators(1000)]
    turned = np.array([np.array_equal(image, picture.array[:, ::-1]) for image in done])
    assert all(
        np.array_equal(image, picture.array) for image, mirrored in zip(done, turned, strict=True) if not mirrored
    )
    assert abs(turned.mean() - 0.5) < 0.06  # four standard deviations


def test_changes_and_erasing_come_after_crop_and_flip():
    picture, seen = noise(24, 20), []

    def change(rng, image):
        seen.append(rng.random())
        return image.point(lambda value: value // 2)

    def erase(rng, array):
        seen.append(rng.random())
        return array + np.float32(0.25)

    both = Augmentation((24, 20), "none", flip=True, change=change, erase=erase)
    done = both(np.random.default_rng(3), picture)
    flip, *numbers = np.random.default_rng(3).random(3)
    assert seen == numbers
    np.testing.assert_array_equal(done, (picture.array[:, ::-1] if flip < 0.5 else picture.array) // 2 + 0.25)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def erased():
    """[(normalised picture, where it is noise)] of a constant one, for each that has some."""
    erase, size = Erasing(0.25, MEAN, STD), tuple(GOLDEN["size"])
    constant = np.full((*size, 3), 200, "uint8")
    done = [erase(rng, constant) for rng in generators(10_000)]
    assert all(picture.dtype == np.float32 for picture in done)
    changed = [((picture / 255 - MEAN) / STD, (picture != 200).any(-1)) for picture in done if (picture != 200).any()]
    return changed


def test_erased_windows_are_distributed_as_timms(erased):
    windows = []
    for _, noisy in erased:
        places = np.argwhere(noisy)
        (top, left), (bottom, right) = places.min(0), places.max(0) + 1
        height, width = bottom - top, right - left
        assert noisy.sum() == height * width and height < GOLDEN["size"][0] and width < GOLDEN["size"][1]
        windows.append((height * width, np.log(width / height), top, left, height, width))
    assert_close_moments(windows, "erased/window")
    for count in (len(windows), GOLDEN["erased/window_count"]):
        assert abs(count - 2500) < 4 * np.sqrt(10_000 * 0.25 * 0.75)


def test_erased_pixels_are_unit_noise_after_normalisation_and_not_clipped(erased):
    pixels = np.concatenate([picture[noisy] for picture, noisy in erased[:200]])
    assert len(pixels) > 50_000
    np.testing.assert_allclose(pixels.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(pixels.std(0), 1, atol=0.02)
    low = -np.array(MEAN) / STD  # black
    assert (pixels < low).any() and abs(np.corrcoef(pixels.T) - np.eye(3)).max() < 0.02


def test_color_jitter_is_off_at_nothing_and_equals_pillow_in_some_order():
    image = Image.fromarray(noise(9, 13).array)
    np.testing.assert_array_equal(ColorJitter(0.0)(np.random.default_rng(0), image), image)
    rng = np.random.default_rng(5)
    factors, order = rng.uniform(0.6, 1.4, 3), rng.permutation(3)
    expected = image
    for which in order:
        kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[which]
        expected = kind(expected).enhance(factors[which])
    np.testing.assert_array_equal(ColorJitter(0.4)(np.random.default_rng(5), image), expected)


def test_a_strong_jitter_has_no_negative_factor(monkeypatch):
    seen = []
    record = augmentation.OPERATIONS["color"].__class__(lambda image, factor, canvas: seen.append(factor))
    monkeypatch.setattr(augmentation, "OPERATIONS", dict.fromkeys(augmentation.JITTERED, record))
    for rng in generators(200):
        ColorJitter(3.0)(rng, None)
    assert 0 <= min(seen) < 0.1 and 3.9 < max(seen) <= 4


def test_a_picture_of_the_size_is_not_resized():
    picture = noise(32, 48)
    np.testing.assert_array_equal(augmentation.evaluation_picture(picture, (32, 48), 0.875), picture.array)


@pytest.mark.parametrize(
    "height, width, size, fraction, resized, offset",
    [
        (300, 500, (224, 224), 0.875, (256, 426), (16, 101)),
        (603, 400, (224, 224), 0.875, (385, 256), (80, 16)),  # 80.5 goes to the even neighbour
        (100, 100, (40, 60), 1.0, (60, 60), (10, 0)),
        (50, 200, (40, 60), 0.5, (80, 320), (20, 130)),
    ],
)
def test_evaluation_resize_and_crop_rounding(height, width, size, fraction, resized, offset):
    picture = noise(height, width, 1)
    larger = np.asarray(Image.fromarray(picture.array[..., 0]).resize(resized[::-1], Image.Resampling.BICUBIC))
    expected = larger[offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]]
    np.testing.assert_array_equal(augmentation.evaluation_picture(picture, size, fraction)[..., 0], expected)


def test_of_a_very_long_picture_only_the_centre_is_resized(monkeypatch):
    from keras_convnextv2 import preprocessing

    for size in ((8, 8 * 40), (8 * 40, 8)):
        picture = noise(*size)
        quick = augmentation.evaluation_picture(picture, (40, 60), 0.875)
        with monkeypatch.context() as patch:
            patch.setattr(preprocessing, "THIN", 1e9)
            whole = augmentation.evaluation_picture(picture, (40, 60), 0.875)
        assert np.abs(quick.astype(int) - whole).mean() < 0.5  # the window's borders in other floats
    assert augmentation.evaluation_picture(noise(1, 1_000_000), (224, 224), 0.875).shape == (224, 224, 3)


@pytest.fixture(scope="module")
def photos():
    """Photos of the data folder that torchvision has prepared for the oracle: [(uint8 picture, cropped, squashed)]."""
    missing = [name for name in ("KERAS_CONVNEXTV2_ORACLE", "KERAS_CONVNEXTV2_DATA") if not os.environ.get(name)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} must say where the expected pictures and the photos are")
    expected = np.load(pathlib.Path(os.environ["KERAS_CONVNEXTV2_ORACLE"]) / "preprocess_expected.npz")
    found = []
    with tarfile.open(pathlib.Path(os.environ["KERAS_CONVNEXTV2_DATA"]) / "imagenet_photos.tar") as archive:
        members = {pathlib.Path(member.name).name: member for member in archive}
        for name, crop, squash in zip(expected["names"], expected["crop224"], expected["squash384"], strict=True):
            if str(name) in members:
                found.append((Encoded(archive.extractfile(members[str(name)]).read(), 3, name), crop, squash))
    return found


@pytest.mark.parametrize("which, size, fraction", [(1, 224, 0.875), (2, 384, None)])
def test_evaluation_pictures_equal_torchvision(photos, which, size, fraction):
    assert photos
    for photo in photos:
        np.testing.assert_array_equal(augmentation.evaluation_picture(photo[0], (size, size), fraction), photo[which])
