import numpy as np
import pytest

from keras_convnextv2.segmentation import ConfusionMatrix


def test_a_matrix_by_hand():
    matrix = ConfusionMatrix(4)
    matrix.update([[0, 0, 1], [1, 2, 255]], [[0, 1, 1], [1, 0, 3]])
    found = matrix.result()
    np.testing.assert_array_equal(matrix.counts, [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(found["iou"], [1 / 3, 2 / 3, 0, np.nan])
    assert found["miou"] == pytest.approx(1 / 3) and found["accuracy"] == 0.6
    assert found["mean_accuracy"] == pytest.approx(0.5)


def test_the_numbers_are_mmsegmentations(oracle):
    cases = np.load(oracle / "detection" / "miou_expected.npz")
    for prefix, numbers in (("", range(4)), ("first_", range(1))):
        matrix = ConfusionMatrix(7)
        for i in numbers:
            matrix.update(cases[f"label_{i}"], cases[f"pred_{i}"])
        found = matrix.result()
        np.testing.assert_allclose(found["iou"], cases[f"{prefix}iou"], rtol=1e-6)
        assert found["miou"] == pytest.approx(float(cases[f"{prefix}mIoU"]), rel=1e-6)
        assert found["mean_accuracy"] == pytest.approx(float(cases[f"{prefix}mAcc"]), rel=1e-6)
        assert found["accuracy"] == pytest.approx(float(cases[f"{prefix}aAcc"]), rel=1e-6)


def test_nothing_counted_is_nan():
    matrix = ConfusionMatrix(2, ignore=7)
    matrix.update(np.full((3, 4), 7), np.zeros((3, 4)))
    assert all(np.isnan(value).all() for value in matrix.result().values())


@pytest.mark.parametrize(
    "labels, predictions, message",
    [
        ([[2, 0]], [[0, 0]], r"labels must be in 0..1 or 255. Received: 2."),
        ([[1, 0]], [[0, -1]], r"predictions must be in 0..1 or 255. Received: -1."),
        ([[1, 0]], [[0], [1]], r"labels \(1, 2\) and predictions \(2, 1\) must have the same shape."),
    ],
)
def test_bad_maps_are_named(labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(2).update(labels, predictions)
