import numpy as np
import pytest

from training.data import PictureSource
from training.evaluation.classification import accuracies, outputs_of, ranks, tally, top_1

LOOK = {"batch_size": 3, "image_size": (1, 7), "crop_fraction": None}
SCORES = np.array(  # of seven classes for four pictures
    [
        [9, 1, 1, 1, 1, 1, 1],  # its own, 0, leads
        [1, 8, 7, 6, 5, 4, 3],  # its own, 5, is fifth
        [0, 8, 7, 6, 5, 4, 3],  # its own, 6, is sixth
        [5, 4, 5, 0, 0, 0, 0],  # its own, 2, has an equal before it
    ],
    "uint8",
)
LABELS = np.array([0, 5, 6, 2])


def source_of(scores, labels):
    """Pictures of one row, whose pixels are what `predict` answers."""
    pixels = np.asarray(scores, "uint8")[:, None, :, None]
    classes = [f"c{k}" for k in range(scores.shape[1])]
    return PictureSource("made", pixels.__getitem__, len(pixels), channels=1, classes=classes, labels=labels)


def predict(images, weights):
    return np.asarray(images)[:, 0, :, 0].astype("float32") * (1 if weights is None else weights)


def test_pictures_that_fill_up_the_last_batch_do_not_count():
    batches = list(outputs_of(predict, source_of(SCORES, LABELS), **LOOK))
    assert [len(labels) for _, labels in batches] == [3, 1]
    np.testing.assert_array_equal(np.concatenate([scores for scores, _ in batches]), SCORES)
    assert top_1(predict, source_of(SCORES, LABELS), **LOOK) == 25.0


def test_weights_reach_the_model():
    assert top_1(predict, source_of(SCORES, LABELS), **LOOK, weights=-1) == 0.0


def test_a_rank_counts_those_before_and_the_first_of_equals_leads():
    assert ranks(SCORES.astype("float32"), LABELS).tolist() == [0, 4, 5, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_without_an_order_are_refused(bad):
    scores = SCORES.astype("float32")
    scores[2, 0] = bad
    with pytest.raises(ValueError, match="scores of the model must be finite. Received: NaN or inf for 1 of 4"):
        ranks(scores, LABELS)


def test_the_tally_by_hand():
    """Three classes of the data are the outputs 6, 2 and 0 of a model of seven."""
    outputs, labels = (6, 2, 0), np.array([2, 1, 0, 1])  # so their own outputs are 0, 2, 6, 2
    halves = [(SCORES[:3].astype("float32"), labels[:3]), (SCORES[3:].astype("float32"), labels[3:])]
    confusion, in_five = tally(halves, outputs, 7)
    expected = [[0, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert confusion.tolist() == expected and in_five.tolist() == [0, 2, 1]
    numbers = accuracies(confusion, in_five, outputs)
    assert numbers == {
        "top_1": 25.0,
        "top_5": 75.0,
        "top_1_standard_error": pytest.approx(100 * (0.25 * 0.75 / 4) ** 0.5),
        "mean_class_top_1": pytest.approx(100 / 3),
    }


def test_a_class_without_pictures_is_not_in_the_mean():
    numbers = accuracies(np.array([[3, 1], [0, 0]]), np.array([4, 0]), (0, 1))
    assert (numbers["top_1"], numbers["mean_class_top_1"]) == (75.0, 75.0)
