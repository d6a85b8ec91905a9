import numpy as np

from training.data.order import epoch_and_position, epoch_order, sample_range


def test_an_epoch_is_a_permutation_and_the_next_one_another():
    first, second = epoch_order(50, seed=3, epoch=0), epoch_order(50, seed=3, epoch=1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, epoch_order(50, seed=4, epoch=0))
    np.testing.assert_array_equal(first, epoch_order(50, seed=3, epoch=0))


def test_counter_arithmetic():
    assert epoch_and_position(0, 7) == (0, 0)
    assert epoch_and_position(6, 7) == (0, 6)
    assert epoch_and_position(7, 7) == (1, 0)
    assert epoch_and_position(30, 7) == (4, 2)
    assert sample_range(first_step=5, steps=3, batch_size=4) == (20, 32)
