import os
import pathlib
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from training.data import augmentation
from training.data.decode import decode_bytes


def each(function, count):
    """What a function of a seed returns for `count` seeds: one stacked array for each of its results."""
    seeds = tf.data.Dataset.range(count).map(lambda index: tf.stack([tf.constant(7, tf.int64), index]))
    stacked = next(iter(seeds.map(function).batch(count)))
    return [values.numpy() for values in tf.nest.flatten(stacked)]


@pytest.fixture(scope="module")
def windows():
    """(top, left, height, width) of 3,000 crops of a picture of 60 x 100."""
    return each(lambda seed: augmentation.crop_window(seed, (60, 100), (0.2, 1.0)), 3000)


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
    _, _, height, width = each(lambda seed: augmentation.crop_window(seed, (4000, 4000), (0.2, 0.5)), 3000)
    area, log_ratio = height / 4000 * (width / 4000), np.log(width / height)
    assert abs(area.mean() - 0.35) < 0.01 and abs((area < 0.275).mean() - 0.25) < 0.03
    assert abs(log_ratio.mean()) < 0.02 and abs(log_ratio.std() - np.log(16 / 9) / np.sqrt(12)) < 0.01


@pytest.mark.parametrize("size, window", [((10, 100), (0, 44, 10, 13)), ((100, 10), (44, 0, 13, 10))])
def test_a_long_picture_falls_back_to_its_centre(size, window):
    # the whole area never fits with a ratio of 3/4 .. 4/3
    values = [int(v) for v in augmentation.crop_window([1, 2], size, (1.0, 1.0))]
    assert tuple(values) == window


def test_random_resized_crop_of_the_whole_is_a_resize():
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (48, 64, 3), "uint8"))
    crop = augmentation.random_resized_crop(image, [1, 2], (24, 40), (1.0, 1.0))  # 4/3: the fallback keeps all
    np.testing.assert_array_equal(crop, augmentation.resize(image, (24, 40)))
    assert crop.dtype == tf.float32


def test_padded_crop_takes_every_shift_of_the_mirrored_picture():
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), "uint8")
    mirrored = np.pad(image, ((4, 4), (4, 4), (0, 0)), "reflect").astype("float32")
    places = {mirrored[t : t + 8, x : x + 12].tobytes(): (t, x) for t in range(9) for x in range(9)}
    (crops,) = each(lambda seed: augmentation.padded_random_crop(tf.constant(image), seed, (8, 12)), 1000)
    seen = [places[crop.tobytes()] for crop in crops]  # a KeyError is a crop that is no window
    assert len(set(seen)) == 81


def test_half_of_the_pictures_are_flipped():
    image = tf.reshape(tf.range(24, dtype=tf.float32), (2, 4, 3))
    (flipped,) = each(lambda seed: augmentation.random_flip(image, seed), 1000)
    turned = (flipped == image.numpy()[:, ::-1]).all((1, 2, 3))
    assert ((flipped == image.numpy()).all((1, 2, 3)) != turned).all()
    assert abs(turned.mean() - 0.5) < 0.06  # four standard deviations


def test_purposes_have_independent_seeds():
    crop, flip = augmentation.fold_in([3, 5], 0), augmentation.fold_in([3, 5], 1)
    assert not np.array_equal(crop, flip)
    np.testing.assert_array_equal(crop, augmentation.fold_in([3, 5], 0))
    assert not np.array_equal(crop, augmentation.fold_in([3, 6], 0))


def test_a_picture_of_the_size_is_not_resized():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), "uint8")
    np.testing.assert_array_equal(augmentation.fit(tf.constant(image), (32, 48), 0.875), image.astype("float32"))


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
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (height, width, 1), "uint8"))
    larger = augmentation.resize(image, resized).numpy()
    expected = larger[offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]]
    np.testing.assert_array_equal(augmentation.fit(image, size, fraction), expected)


def test_resized_values_fit_into_eight_bits():
    image = np.zeros((16, 16, 3), "uint8")
    image[4:12, 4:12] = 255  # bicubic overshoots at such edges
    values = augmentation.resize(tf.constant(image), (37, 29)).numpy()
    assert values.min() == 0 and values.max() == 255
    np.testing.assert_array_equal(values, np.rint(values))


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
                found.append((decode_bytes(archive.extractfile(members[str(name)]).read(), 3, name), crop, squash))
    return found


@pytest.mark.parametrize("which, size, fraction", [(1, 224, 0.875), (2, 384, None)])
def test_evaluation_pictures_equal_torchvision(photos, which, size, fraction):
    assert photos
    for photo in photos:
        difference = np.abs(augmentation.fit(tf.constant(photo[0]), (size, size), fraction) - photo[which])
        # an image library rounds between its two passes; without antialias the mean is 1.4 to 5.9
        assert difference.mean() <= 0.25 and difference.max() <= 12
