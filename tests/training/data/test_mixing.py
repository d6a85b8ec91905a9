import numpy as np
import pytest

from tests.training.data.conftest import GOLDEN, assert_close_moments
from training.data.mixing import Mixing, blended, exchanged


def generators(count):
    return (np.random.default_rng([3, n]) for n in range(count))


def batch_of(images=GOLDEN["mixed/images"]):
    return {"images": images, "labels": GOLDEN["mixed/labels"].astype("int32")}


def test_mixup_equals_timms():
    mixed = blended(GOLDEN["mixed/images"], float(GOLDEN["mixed/mixup_share"]))
    np.testing.assert_allclose(mixed, GOLDEN["mixed/mixup_images"], atol=1e-4)
    assert mixed.dtype == np.float32 and (mixed % 1).any()  # not rounded


def test_cutmix_equals_timms():
    mixed = exchanged(GOLDEN["mixed/images"], GOLDEN["mixed/cutmix_box"])
    np.testing.assert_array_equal(mixed, GOLDEN["mixed/cutmix_images"])
    assert mixed.dtype == np.float32


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_batch_that_came_in_is_left_alone(dtype):
    batch = batch_of(GOLDEN["mixed/images"].astype(dtype))
    for mixing in (Mixing(mixup=0.8), Mixing(cutmix=1.0)):
        mixing(np.random.default_rng(0), batch)
        np.testing.assert_array_equal(batch["images"], GOLDEN["mixed/images"])


def test_shares_and_boxes_are_distributed_as_timms():
    mixing = Mixing(mixup=0.3, cutmix=1.0)
    drawn = [mixing.draw(rng, tuple(GOLDEN["size"])) for rng in generators(10_000)]
    blends = [share for share, box in drawn if box is None]
    assert abs(len(blends) - GOLDEN["draws/mixup_share_count"]) < 4 * np.sqrt(2 * 2500)
    assert_close_moments(blends, "draws/mixup_share")
    assert_close_moments([(share, *box) for share, box in drawn if box is not None], "draws/cutmix")


def test_one_share_a_batch_which_is_that_of_the_pixels():
    images = np.arange(6)[:, None, None, None] * np.ones((6, 9, 11, 1), "float32")
    for mixing in (Mixing(mixup=0.8), Mixing(cutmix=1.0)):
        for rng in generators(40):
            mixed = mixing(rng, batch_of(images))
            share = mixed["share"][0]
            assert (mixed["share"] == share).all() and mixed["share"].dtype == np.float32
            assert mixed["partner_labels"].tolist() == GOLDEN["mixed/labels"][[1, 0, 3, 2, 5, 4]].tolist()
            # the mean of a picture says how much of it is its own
            expected = share * np.arange(6) + (1 - share) * np.array([1, 0, 3, 2, 5, 4])
            np.testing.assert_allclose(mixed["images"].mean((1, 2, 3)), expected, atol=1e-5)


@pytest.mark.parametrize("on, kinds", [({"mixup": 0.8}, {True}), ({"cutmix": 1.0}, {False})])
def test_one_of_the_two_alone(on, kinds):
    assert {Mixing(**on).draw(rng, (8, 8))[1] is None for rng in generators(50)} == kinds
