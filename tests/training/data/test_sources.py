import numpy as np
import pytest

from training.data import open_source, take_per_class
from training.data import picture_source as picture_source_module
from training.data.decode import Encoded, Pixels, UnreadableImage


@pytest.mark.parametrize("spec", ["shape", "folder", "folder:", "tfds:", "http://x", ""])
def test_unknown_data_is_refused(spec):
    with pytest.raises(
        ValueError, match="data must be shapes, shapes:COUNT, folder:PATH, records:PATH or tfds:NAME. Received: "
    ):
        open_source(spec, "train")


def test_unknown_splits_channels_and_counts_are_refused():
    with pytest.raises(ValueError, match="split must be one of train, unlabelled, test. Received: 'val'"):
        open_source("shapes", "val")
    with pytest.raises(ValueError, match="Received: channels=4"):
        open_source("shapes", "train", channels=4)
    with pytest.raises(ValueError, match="positive number of pictures. Received: '-3'"):
        open_source("shapes:-3", "train")


def test_shapes_have_labels_where_they_should():
    train, unlabelled = open_source("shapes:30", "train"), open_source("shapes:20", "unlabelled")
    assert (train.count, len(train.classes), train.labels.dtype) == (30, 10, np.int32)
    assert (unlabelled.count, unlabelled.classes, unlabelled.labels) == (20, (), None)
    assert open_source("shapes:20", "unlabelled", channels=1).picture(3).shape == (64, 64, 1)


def test_taking_per_class_is_balanced_and_seeded(folder):
    source = open_source(f"folder:{folder}", "train")
    few = take_per_class(source, 3, seed=1)
    assert np.bincount(few.labels).tolist() == [3, 3, 3] and few.classes == source.classes
    originals = {source.picture(k).tobytes(): label for k, label in enumerate(source.labels)}
    drawn = [few.picture(k).tobytes() for k in range(9)]
    assert [originals[picture] for picture in drawn] == few.labels.tolist() and len(set(drawn)) == 9
    again, other = take_per_class(source, 3, seed=1), take_per_class(source, 3, seed=2)
    assert [again.picture(k).tobytes() for k in range(9)] == drawn
    assert [other.picture(k).tobytes() for k in range(9)] != drawn


def test_taking_more_than_there_are_is_refused(folder):
    source = open_source(f"folder:{folder}", "train")
    with pytest.raises(ValueError, match=r"has 4 pictures of 'cat', so n must be 1 .. that. Received: 5"):
        take_per_class(source, 5, seed=0)
    with pytest.raises(ValueError, match=r"needs labels. Received: folder:.*unlabelled"):
        take_per_class(open_source(f"folder:{folder}", "unlabelled"), 1, seed=0)


def test_small_sets_are_decoded_once_and_large_ones_are_not_kept(folder, monkeypatch):
    source = open_source(f"folder:{folder}", "train")
    assert source.picture(2) is source.picture(2)
    monkeypatch.setattr(picture_source_module, "MEMORY_LIMIT", 15 * 24 * 20 * 3 - 1)
    large = open_source(f"folder:{folder}", "train")
    assert large.picture(2) is not large.picture(2)
    assert isinstance(source.opened(2)[0], Pixels) and isinstance(
        large.opened(2)[0], Encoded
    )  # only windows are decoded
    np.testing.assert_array_equal(large.picture(2), source.picture(2))


def test_what_fits_in_memory_is_estimated_from_readable_pictures_all_over_the_set(monkeypatch):
    read_indices = []

    def read(index):
        read_indices.append(index)
        if index == 0:
            raise UnreadableImage("cannot read the image 0: damaged")
        return Pixels(np.zeros((10 if index < 5000 else 30, 7, 3), "uint8"))

    for limit, fits in ((21 * 7 * 3 * 9_999, True), (20 * 7 * 3 * 9_999, False)):  # the mean height is 20.2
        monkeypatch.setattr(picture_source_module, "MEMORY_LIMIT", limit)
        assert picture_source_module.fit_in_memory(read, 9_999, 3) == fits
    assert len(set(read_indices)) == 64 and max(read_indices) == 9_998
