import numpy as np
import pytest
import tensorflow as tf

from training.data.masks import patch_counts, random_visible


@pytest.mark.parametrize(
    "image_size, patch_size, ratio, counts",
    [
        ((224, 224), 32, 0.6, (49, 19)),
        ((64, 64), 16, 0.6, (16, 6)),
        ((32, 96), 16, 0.5, (12, 6)),
        ((64, 64), 32, 0.75, (4, 1)),
    ],
)
def test_counts_follow_the_int_rule(image_size, patch_size, ratio, counts):
    assert patch_counts(image_size, patch_size, ratio) == counts


@pytest.mark.parametrize(
    "image_size, patch_size, ratio, message",
    [
        ((200, 224), 32, 0.6, r"image_size=\(200, 224\), patch_size=32.*\(192, 224\)"),
        ((64, 32), 16, 60, r"mask_ratio must be in \(0, 1\). Received: 60. Did you mean 0.6"),
        ((64, 32), 16, 0.0, r"mask_ratio must be in \(0, 1\). Received: 0.0"),
        (
            (32, 64),
            32,
            0.6,
            r"visible and hidden.*mask_ratio=0.6, which shows 0 of the 2 patches of an image \(32, 64\)",
        ),
    ],
)
def test_impossible_masks_are_refused(image_size, patch_size, ratio, message):
    with pytest.raises(ValueError, match=message):
        patch_counts(image_size, patch_size, ratio)


def test_masks_are_sorted_and_every_patch_is_as_likely():
    seeds = tf.data.Dataset.range(2000).map(lambda index: tf.stack([tf.constant(7, tf.int64), index]))
    masks = next(iter(seeds.map(lambda seed: random_visible(seed, 12, 4)).batch(2000))).numpy()
    assert masks.shape == (2000, 4) and masks.dtype == np.int32
    assert (np.diff(masks, axis=1) > 0).all()  # sorted, and none twice
    frequency = np.bincount(masks.ravel(), minlength=12) / 2000
    # standard deviation of each frequency is sqrt(1/3 * 2/3 / 2000) = .0105
    np.testing.assert_allclose(frequency, 1 / 3, rtol=0, atol=0.05)
    assert len({tuple(mask) for mask in masks}) > 400  # of 495 possible ones
