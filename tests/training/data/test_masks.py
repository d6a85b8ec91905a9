import numpy as np

from training.data.masks import random_visible


def test_masks_are_sorted_and_every_patch_is_as_likely():
    masks = np.stack([random_visible(np.random.default_rng([7, n]), 12, 4) for n in range(2000)])
    assert masks.shape == (2000, 4) and masks.dtype == np.int32
    assert (np.diff(masks, axis=1) > 0).all()  # sorted, and none twice
    frequency = np.bincount(masks.ravel(), minlength=12) / 2000
    # standard deviation of each frequency is sqrt(1/3 * 2/3 / 2000) = .0105
    np.testing.assert_allclose(frequency, 1 / 3, rtol=0, atol=0.05)
    assert len({tuple(mask) for mask in masks}) > 400  # of 495 possible ones
