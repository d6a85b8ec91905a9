"""Tiles of large pictures, and the objects of each."""

import numpy as np
import pytest

from tests.training.data.test_detection import objects_of, rectangles
from training.data import PictureSource, open_objects, tiled
from training.data.objects import areas, boxes_of, inside
from training.data.tiles import objects_within, windows


@pytest.mark.parametrize(
    "size, starts",
    [
        ((800, 800), [0, 288]),  # GrokSAR's 512 and 200: steps of 312, the last one moved back
        ((1000, 1000), [0, 312, 488]),
        ((1200, 1200), [0, 312, 624, 688]),
        ((1500, 1500), [0, 312, 624, 936, 988]),
        ((824, 824), [0, 312]),  # which fits exactly
        ((512, 512), [0]),
    ],
)
def test_windows_of_the_sizes_of_sar_aircraft(size, starts):
    found = windows(size, 512, 200)
    expected = [[left, top, left + 512, top + 512] for top in starts for left in starts]
    assert found.tolist() == expected


def test_windows_cover_every_pixel_once_at_least_and_overlap():
    seen = np.zeros((97, 143), int)
    for left, top, right, bottom in windows((97, 143), 40, 12):
        assert 0 <= left and right <= 143 and 0 <= top and bottom <= 97
        seen[top:bottom, left:right] += 1
    assert seen.min() == 1 and seen.max() > 1


def test_one_window_reaches_over_a_short_side():
    assert windows((100, 100), 512, 200).tolist() == [[0, 0, 512, 512]]
    assert windows((300, 900), 512, 200).tolist() == [[0, 0, 512, 512], [312, 0, 824, 512], [388, 0, 900, 512]]
    with pytest.raises(ValueError, match="gap must be within 0 .. side - 1. Received: side=100, gap=100"):
        windows((300, 900), 100, 100)


@pytest.mark.parametrize("size", [(100, 90), (513, 200), (300, 900), (824, 1501)])
def test_all_windows_have_the_same_share_in_their_picture(size):
    found = windows(size, 512, 200)
    assert len(np.unique(areas(inside(found, size)))) == 1


def test_objects_of_a_window_are_moved_and_clipped():
    # of the window 20..60 x 10..50: whole; 7 of 10 columns; 6 of 10; outside
    _, objects = rectangles((80, 80), (30, 20, 40, 30), (53, 20, 63, 30), (20, 44, 30, 54))
    found = objects_within(objects, (20, 10, 60, 50), (80, 80))
    assert found.boxes.tolist() == [[10, 10, 20, 20], [33, 10, 40, 20]] and found.classes.tolist() == [0, 1]
    assert found.area.tolist() == [100, 70]
    masks = found.masks((40, 40))
    assert masks.shape == (2, 40, 40)
    np.testing.assert_array_equal(boxes_of(masks), found.boxes)
    assert len(objects_within(objects, (20, 10, 60, 50), (80, 80), least=0.6)) == 3


def large(**flags):
    """Two pictures with an object each, in the middle and in a corner."""
    first, one = rectangles((60, 90), (40, 20, 50, 30))
    second, other = rectangles((30, 30), (1, 2, 6, 9))
    other = objects_of(other.masks((30, 30)), **flags)
    pairs = [(first.array, one), (second.array, other)]
    return PictureSource("large", pairs.__getitem__, 2, channels=3, classes=("a",), labelled=True)


def test_a_source_of_tiles():
    whole = large()
    tiles = tiled(whole, 40, 10, fill=(1, 2, 3))
    assert tiles.classes == ("a",) and tiles.channels == 3 and tiles.count == len(tiles.places) == 2 * 3 + 1
    for index, (number, left, top, _, _) in enumerate(tiles.places):
        picture, objects = tiles.opened(index)
        assert picture.array.shape == (40, 40, 3)
        inside = whole.picture(number)[top : top + 40, left : left + 40]
        np.testing.assert_array_equal(picture.array[: inside.shape[0], : inside.shape[1]], inside)
        assert (picture.array[inside.shape[0] :] == (1, 2, 3)).all()
        red = (picture.array == (250, 0, 0)).all(-1)
        np.testing.assert_array_equal(objects.boxes, boxes_of(red[None]) if red.any() else np.zeros((0, 4)))
        np.testing.assert_array_equal(objects.masks((40, 40)).sum(0), red)
    assert [tuple(tiles.places[k]) for k in (0, 6)] == [(0, 0, 0, 40, 40), (1, 0, 0, 40, 40)]


def test_tiles_without_objects_can_be_left_out():
    assert tiled(large(), 40, 10, filter_empty=True).places[:, :3].tolist() == [[0, 30, 0], [0, 30, 20], [1, 0, 0]]
    assert tiled(large(crowd=[True]), 40, 10, filter_empty=True).places[:, 0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="tiles of large must have objects to train on"):
        tiled(large(crowd=[True]).subset([1]), 40, 10, filter_empty=True)


def test_tiles_of_drawn_pictures_hold_their_pixels():
    tiles = tiled(open_objects("shapes:3", "train"), 48, 16)
    assert tiles.count == 12
    for index in range(12):
        picture, objects = tiles.opened(index)
        masks = objects.masks(picture.size)
        around = boxes_of(masks)
        assert (around >= objects.boxes - 1e-3)[:, :2].all() and (around <= objects.boxes + 1e-3)[:, 2:].all()
