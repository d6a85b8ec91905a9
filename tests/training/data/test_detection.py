"""A photo and its objects go the same way: scaled, cut out, mirrored, filled up."""

import numpy as np
import pytest

from training.data import DetectionAugmentation, open_objects, training_batches
from training.data.decode import Pixels
from training.data.detection import cut_boxes, cut_mask, pixels_of
from training.data.objects import Objects, boxes_of
from training.data.segmentation import nearest

COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]], "uint8")


def objects_of(masks, classes=None, **flags):
    """Objects of masks (n, H, W)."""
    count = len(masks)
    kinds = {kind: np.array(flags.get(kind, [False] * count), bool) for kind in ("difficult", "crowd")}
    classes = np.arange(count, dtype="int32") if classes is None else np.array(classes, "int32")
    area = masks.sum((1, 2)).astype("float32")
    return Objects(boxes_of(masks), classes, **kinds, area=area, draw=lambda size: masks, name="x.json, image 1")


def rectangles(size, *boxes):
    """(picture with a rectangle of a colour of its own for each box, Objects), boxes x1 y1 x2 y2 in whole pixels."""
    masks, pixels = np.zeros((len(boxes), *size), bool), np.zeros((*size, 3), "uint8")
    for k, (x1, y1, x2, y2) in enumerate(boxes):
        masks[k, y1:y2, x1:x2] = True
        pixels[y1:y2, x1:x2] = COLOURS[k]
    return Pixels(pixels), objects_of(masks)


PHOTO = (90, 120)
BOXES = (4, 6, 40, 50), (50, 10, 110, 40), (30, 60, 100, 85)


def augmented(seed, picture=None, objects=None, size=(64, 80), **options):
    if picture is None:
        picture, objects = rectangles(PHOTO, *BOXES)
    given = {"fill": (9, 8, 7), "scale": (1.0, 1.0), "flip": False, "most_objects": 5, **options}
    return DetectionAugmentation(size, **given)(np.random.default_rng(seed), picture, objects)


@pytest.mark.parametrize("masks", [0, 28])
@pytest.mark.parametrize("seed", range(8))
def test_picture_boxes_and_masks_go_the_same_way(seed, masks):
    found = augmented(seed, scale=(0.4, 1.9), flip=True, mask_size=masks)
    height, width = found["sizes"].astype(int)
    image = found["images"].astype(int)
    for k in np.flatnonzero(found["valid"]):
        colour = COLOURS[found["classes"][k]]
        near = (np.abs(image - colour).max(-1) < 125)[:height, :width]  # at least half of the pixel
        np.testing.assert_allclose(boxes_of(near[None])[0], found["boxes"][k], atol=1.01)
        if masks:
            mask = found["masks"][k]  # a rectangle fills its box, but for corners of less than a pixel
            assert mask[14].all() and mask[:, 14].all() and mask.mean() > 0.9
    assert found["valid"].any() and set(found) == {"images", "sizes", "boxes", "classes", "valid"} | (
        {"masks", "mask_boxes"} if masks else set()
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_mask_laid_over_its_box_covers_the_pixels_of_its_object(seed):
    y, x = np.mgrid[:90, :120]
    corner = (x > 20) & (y > 10) & (x + 2 * y < 150)  # a triangle, other at each side
    picture = Pixels(np.where(corner[..., None], COLOURS[0], 0).astype("uint8"))
    found = augmented(seed, picture, objects_of(corner[None]), (80, 100), scale=(0.7, 1.6), flip=True, mask_size=56)
    x1, y1, x2, y2 = found["boxes"][0].astype(int)
    rows, columns = nearest(56, y2 - y1), nearest(56, x2 - x1)
    laid = np.zeros((80, 100), bool)
    laid[y1:y2, x1:x2] = found["masks"][0][np.ix_(rows, columns)]
    drawn = found["images"][..., 0].astype(int) - found["images"][..., 1] > 125
    assert (laid & drawn).sum() > 0.95 * (laid | drawn).sum()


def test_arrays_have_their_types_and_are_filled_up():
    found = augmented(0, size=(100, 140), mask_size=4)
    np.testing.assert_array_equal(found["boxes"][:3], np.array(BOXES, "float32"))
    assert not found["boxes"][3:].any() and not found["masks"][3:].any()
    assert found["classes"].tolist() == [0, 1, 2, -1, -1] and found["valid"].tolist() == [True] * 3 + [False] * 2
    assert found["sizes"].tolist() == [90, 120]
    assert (found["images"][90:] == (9, 8, 7)).all() and (found["images"][:, 120:] == (9, 8, 7)).all()
    kinds = {key: array.dtype.name for key, array in found.items()}
    assert kinds == {
        "images": "uint8",
        "sizes": "float32",
        "boxes": "float32",
        "classes": "int32",
        "valid": "bool",
        "masks": "uint8",
        "mask_boxes": "float32",
    }
    assert found["masks"].shape == (5, 4, 4)
    np.testing.assert_array_equal(found["mask_boxes"], found["boxes"])


def test_a_flip_mirrors_within_the_photo_alone():
    flipped = next(
        found for seed in range(9) if (found := augmented(seed, size=(100, 140), flip=True))["images"][20, 90, 0]
    )
    assert flipped["boxes"][0].tolist() == [120 - 40, 6, 120 - 4, 50]
    np.testing.assert_array_equal(flipped["images"][:90, :120], augmented(0, size=(100, 140))["images"][:90, 119::-1])


def test_a_generator_makes_a_sample_and_another_one_another():
    options = {"scale": (0.1, 2.0), "flip": True, "distort": True, "mask_size": 14}
    first, again, other = (augmented(seed, **options) for seed in (5, 5, 6))
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    assert (first["images"] != other["images"]).any()


@pytest.mark.parametrize("seed", range(4))
def test_boxes_around_seen_pixels_are_those_of_the_whole_resized_mask(seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((6, 31, 43)) < np.array([0, 0.002, 0.01, 0.1, 0.5, 1])[:, None, None]
    size = tuple(int(side * factor) for side, factor in zip((31, 43), rng.uniform(0.2, 3, 2), strict=True))
    cut = tuple(int(rng.integers(1, side + 1)) for side in size)
    place = tuple(int(rng.integers(0, whole - side + 1)) for whole, side in zip(size, cut, strict=True))
    rows, columns = nearest(31, size[0]), nearest(43, size[1])
    window = masks[:, rows][:, :, columns][:, place[0] : place[0] + cut[0], place[1] : place[1] + cut[1]]
    found = boxes_of(masks, *pixels_of((31, 43), size, place, cut))
    for mask, box in zip(window, found, strict=True):
        y, x = np.nonzero(mask)
        expected = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0]
        assert box.tolist() == expected


def test_a_mask_shrinks_its_box_to_what_is_seen():
    mask = np.zeros((1, 60, 80), bool)  # an L: its upper part is thin
    mask[0, 10:50, 10:14] = mask[0, 40:50, 10:70] = True
    picture, objects = Pixels(np.zeros((60, 80, 3), "uint8")), objects_of(mask)
    place = {seed: augmented(seed, picture, objects, (30, 80), mask_size=8) for seed in range(20)}
    tops = [found for found in place.values() if found["valid"].any() and found["boxes"][0, 2] == 14]
    assert tops  # windows above the foot
    plain = augmented(next(seed for seed in place if place[seed] is tops[0]), picture, objects, (30, 80))
    assert plain["boxes"][0, 2] == 70  # of the box alone


def test_small_masks_are_the_mask_in_its_box():
    y, x = np.mgrid[:50, :60]
    disc = (x + 0.5 - 30) ** 2 + (y + 0.5 - 25) ** 2 < 20**2
    found = augmented(0, Pixels(np.zeros((50, 60, 3), "uint8")), objects_of(disc[None]), (64, 64), mask_size=40)
    assert found["boxes"][0].tolist() == [10, 5, 50, 45]
    np.testing.assert_array_equal(found["masks"][0], disc[5:45, 10:50])  # cells are the pixels
    centres = (np.arange(10) + 0.5) / 10 * 40 - 20
    smaller = augmented(0, Pixels(np.zeros((50, 60, 3), "uint8")), objects_of(disc[None]), (64, 64), mask_size=10)
    far = np.abs(np.hypot(*np.meshgrid(centres, centres)) - 20) > 0.8
    np.testing.assert_array_equal(smaller["masks"][0][far], (np.hypot(*np.meshgrid(centres, centres)) < 20)[far])


def test_a_cell_is_bilinear_between_pixel_centres():
    mask, pixels = np.array([[1, 0, 0], [1, 1, 0]], bool), (np.arange(2), np.arange(3))
    # centres at (.75, 2.25) x, (.5, 1.5) y of the box below; along x .75 is 1 - .25 of pixel 0, 2.25 is .25 of pixel 1
    assert cut_mask(mask, *pixels, (0, 0, 3, 2), 2).tolist() == [[True, False], [True, False]]
    assert cut_mask(mask, *pixels, (0.5, 0, 1.5, 1), 1).tolist() == [[True]]  # x 1: half of pixels 0 and 1, exactly .5
    assert cut_mask(mask, *pixels, (0.6, 0, 1.5, 1), 1).tolist() == [[False]]  # x 1.05: .45
    assert cut_mask(mask, *pixels, (-4, -4, 1, 1), 1).tolist() == [[True]]  # outside counts as the border does
    assert cut_mask(mask, np.array([0, 1, 1]), np.array([1, 1]), (0, 0, 2, 3), 3)[:, 0].tolist() == [False, True, True]


def test_objects_that_do_not_count_are_no_targets():
    picture, objects = rectangles(PHOTO, *BOXES)
    masks = objects.masks(PHOTO)
    flagged = objects_of(masks, crowd=[True, False, False], difficult=[False, False, True])
    assert augmented(0, picture, flagged, (100, 140))["classes"].tolist() == [1, -1, -1, -1, -1]


def test_thin_objects_and_those_outside_of_the_window_are_left_out():
    picture, objects = rectangles((40, 40), (0, 0, 8, 8), (20, 20, 40, 40))
    count = [int(augmented(seed, picture, objects, (16, 16))["valid"].sum()) for seed in range(40)]
    assert {0, 1} <= set(count)  # a window without objects is one, too
    thick = augmented(0, picture, objects, (40, 40), least_side=8.0)
    assert thick["classes"].tolist()[:2] == [1, -1]
    inner = augmented(0, picture, objects, (40, 40), least_side=7.9)
    assert inner["classes"].tolist()[:2] == [0, 1]


def test_a_picture_without_objects_trains():
    picture = Pixels(np.full((30, 40, 3), 7, "uint8"))
    none = Objects(np.zeros((0, 4), "float32"), *(np.zeros(0, kind) for kind in ("int32", bool, bool, "float32")))
    for mask_size in (0, 14):
        found = augmented(0, picture, none, mask_size=mask_size, flip=True, scale=(0.1, 2))
        assert not found["valid"].any() and (found["classes"] == -1).all() and not found["boxes"].any()


def test_of_more_objects_a_random_choice_remains():
    masks = np.zeros((9, 30, 30), bool)
    for k in range(9):
        masks[k, 10 * (k // 3) : 10 * (k // 3) + 8, 10 * (k % 3) : 10 * (k % 3) + 8] = True
    picture, objects = Pixels(np.zeros((30, 30, 3), "uint8")), objects_of(masks)
    chosen = [tuple(augmented(seed, picture, objects, (30, 30), mask_size=3)["classes"]) for seed in range(30)]
    assert {len(set(classes)) for classes in chosen} == {5} and len(set(chosen)) > 15
    assert set(np.concatenate(chosen)) == set(range(9)) and all(list(row) == sorted(row) for row in chosen)


def test_masks_that_are_not_there_are_named():
    picture, objects = rectangles(PHOTO, *BOXES)
    boxes = Objects(objects.boxes, objects.classes, objects.difficult, objects.crowd, objects.area, name="a.xml")
    assert augmented(0, picture, boxes)["valid"].any()
    with pytest.raises(ValueError, match="masks need polygons or RLE. Received: a.xml, which has boxes alone"):
        augmented(0, picture, boxes, mask_size=28)


def test_large_scale_jitter_has_its_range():
    picture, objects = rectangles((60, 80), (0, 0, 80, 60))
    factors = []
    for seed in range(200):
        found = augmented(seed, picture, objects, (400, 400), scale=(0.1, 2.0), resize=(160, 160))
        height, width = found["sizes"]
        assert abs(height / width - 0.75) < 0.03
        factors.append(width / 160)
        np.testing.assert_allclose(found["boxes"][0], [0, 0, width, height], atol=1e-4)
    assert 0.1 <= min(factors) < 0.15 and 1.9 < max(factors) <= 2.0
    assert np.mean(factors) == pytest.approx(1.05, abs=0.12)  # uniform


def test_without_the_ratio_the_photo_becomes_the_size():
    found = augmented(0, keep_ratio=False, size=(45, 240))
    assert found["sizes"].tolist() == [45, 240]
    np.testing.assert_array_equal(found["boxes"][:3], np.array(BOXES) * np.array([2, 0.5, 2, 0.5]))
    assert (found["images"][4:24, 10:76, 0] == 250).all()


def test_boxes_are_clipped_to_the_window():
    boxes = np.array([[2, 4, 20, 30], [15, 2, 19, 6]], "float32")
    found = cut_boxes(boxes, (30, 20), (60, 10), (8, 3), (40, 6))
    np.testing.assert_allclose(found, [[0, 0, 6, 40], [4.5, 0, 6, 4]])


def test_batches_of_drawn_objects():
    augmentation = DetectionAugmentation((64, 64), (0, 0, 0), (0.8, 1.2), mask_size=14, most_objects=6)
    options = {"batch_size": 3, "seed": 1, "steps": 2}
    source = open_objects("shapes:8", "train")
    batches = list(training_batches(source, augmentation, first_step=0, **options))
    assert batches[0]["boxes"].shape == (3, 6, 4) and batches[0]["masks"].shape == (3, 6, 14, 14)
    (again,) = training_batches(source, augmentation, first_step=1, **{**options, "steps": 1}, workers=1)
    for key in again:
        np.testing.assert_array_equal(again[key], batches[1][key])
