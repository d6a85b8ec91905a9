import itertools
import json
import sys

import numpy as np
import pytest
from pycocotools import mask as mask_tools

from keras_convnextv2.detection import coco_metrics, voc_average_precision

VOC = {
    "ap07": {},
    "ap12": {"points": "all"},
    "ap07_plus1": {"plus_one": True},
    "ap12_plus1": {"points": "all", "plus_one": True},
}
TWELVE = "ap ap50 ap75 ap_small ap_medium ap_large ar1 ar10 ar ar_small ar_medium ar_large".split()  # COCO's order
SIZE = (120, 200)


@pytest.fixture(scope="module")
def expected(oracle):
    return json.loads((oracle / "detection" / "metrics_expected.json").read_text())


def lists(images):
    """What both metrics take, from the pictures of the file."""
    names = {"boxes": "bbox", "classes": "label", "scores": "score", "masks": "segmentation"}
    names |= {"difficult": "difficult", "crowd": "iscrowd"}
    both = []
    for side in ("ground_truth", "detections"):
        rows = [image[side] for image in images]
        both.append([{ours: [o[name] for o in row if name in o] for ours, name in names.items()} for row in rows])
    for truth, image in zip(both[0], images, strict=True):
        truth["size"] = image.get("height"), image.get("width")
    return both


def truth(*boxes, **others):
    return {"boxes": boxes, "classes": [0] * len(boxes), "size": SIZE, **others}


def found(*boxes, scores=None, **others):
    scores = np.linspace(0.9, 0.5, len(boxes)) if scores is None else scores
    return {"boxes": boxes, "classes": [0] * len(boxes), "scores": scores, **others}


def box(x, y=0, width=10, height=20):
    return [x, y, x + width, y + height]


def drawn(*boxes):
    """Boxes of whole numbers as masks (n, H, W)."""
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


@pytest.mark.parametrize("which", VOC)
def test_voc_numbers_are_mmdetections(expected, which):
    cases = {"all": expected | {which: expected["voc"][which]}, **expected["voc_cases"]}
    for name, case in cases.items():
        result = voc_average_precision(*lists(case["images"]), case["num_classes"], **VOC[which])
        assert result["map"] == case[which]["mAP"], name
        known = ~np.isnan(result["ap"])
        np.testing.assert_array_equal(np.array(result["ap"])[known], np.array(case[which]["ap"])[known], err_msg=name)
        if "num_gts" in case[which]:
            np.testing.assert_array_equal(known, np.array(case[which]["num_gts"]) > 0)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_numbers_are_pycocotools(expected, kind):
    result = coco_metrics(*lists(expected["images"]), expected["num_classes"], kind)
    per_class = result.pop("ap_per_class")
    golden = expected[f"coco_{kind}"]
    assert list(result) == TWELVE
    np.testing.assert_allclose(list(result.values()), golden["stats"], rtol=0, atol=1e-12)
    undefined = np.array(golden["ap_per_class"]) == -1
    np.testing.assert_allclose(per_class, np.where(undefined, np.nan, golden["ap_per_class"]), rtol=0, atol=1e-12)
    assert undefined.tolist() == [False] * 5 + [True]


def test_a_mask_is_as_large_as_itself_and_not_as_its_box(expected):
    result = list(coco_metrics(*lists(expected["images"]), expected["num_classes"], "segm").values())[3:6]
    assert (np.abs(np.subtract(result, expected["coco_segm_area_from_box"]["stats"][3:6])) > 1e-3).all()


def test_polygons_of_no_area_are_empty_masks():
    square, line = [0, 0, 10, 0, 10, 10, 0, 10], [1, 1, 5, 5]
    shown = {"boxes": [[0, 0, 10, 10]] * 3, "classes": [0, 0, 0], "size": (20, 20)}
    answer = {"boxes": [[0, 0, 10, 10]], "classes": [0], "scores": [0.9], "masks": [[square]]}
    result = coco_metrics([{**shown, "masks": [[square, line], [line], []]}], [answer], 1, "segm")
    assert result["ap50"] == pytest.approx(34 / 101)  # one of three found: recall 1/3 has 34 of the 101 points


def test_voc_by_hand():
    truths = [truth(box(0), box(50), box(100), classes=[0, 0, 1])]
    detections = [found(box(0), box(1), box(50), classes=[0, 0, 0])]  # right, the same object again, right
    result = voc_average_precision(truths, detections, ["ship", "plane", "car"], points="all")
    np.testing.assert_allclose(result["ap"], [1 / 2 + 1 / 2 * 2 / 3, 0, np.nan], rtol=1e-6)
    assert result["map"] == pytest.approx(5 / 12)
    eleven = voc_average_precision(truths, detections, 3)["ap"]
    np.testing.assert_allclose(eleven, [(6 + 5 * 2 / 3) / 11, 0, np.nan], rtol=1e-6)


def test_the_earlier_picture_comes_first_where_scores_tie():
    truths, detections = [truth(box(0)), truth()], [found(box(0), scores=[0.5]), found(box(0), scores=[0.5])]
    assert voc_average_precision(truths, detections, 1)["ap"] == [1]
    assert voc_average_precision(truths[::-1], detections[::-1], 1)["ap"] == [0.5]


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_an_ignored_object_counts_neither_way_and_hides_no_other_in_the_same_place(flag):
    truths = [truth(box(0), box(50), **{flag: [True, False]})]
    assert voc_average_precision(truths, [found(box(0), box(0), box(50))], 1)["ap"] == [1]
    twins = [truth(box(0), box(0), **{flag: [True, False]})]
    assert voc_average_precision(twins, [found(box(0))], 1)["ap"] == [1]


def test_an_overlap_of_the_threshold_matches():
    for iou, ap in ((0.7, 1), (np.float64(0.7), 1), (0.71, 0)):  # float32's 0.7 is below float64's
        result = voc_average_precision([truth([0, 0, 10, 10])], [found([0, 0, 10, 7])], 1, iou=iou)
        assert result["ap"] == [ap]


def test_no_objects_are_a_map_of_zero_or_nan():
    nothing = [truth()], [found(box(0), masks=drawn(box(0)))]
    assert voc_average_precision(*nothing, 1)["map"] == 0
    for kind in ("bbox", "segm"):
        for sides in (nothing, ([], [])):
            result = coco_metrics(*sides, 1, kind)
            assert np.isnan([*result.pop("ap_per_class"), *result.values()]).all()


def test_no_detections_are_zero():
    result = coco_metrics([truth(box(0), masks=drawn(box(0)))], [found()], 1, "segm")
    assert (result["ap"], result["ar"], result["ap_per_class"]) == (0, 0, [0])


def test_all_forms_of_a_mask_give_the_same_numbers():
    objects, guesses = (box(3, 5), box(40, 50, 60, 47)), (box(3, 5, 9, 17), box(42, 50, 60, 47))
    forms = {
        "arrays": drawn,
        "compressed": lambda *boxes: [mask_tools.encode(np.asfortranarray(m, "uint8")) for m in drawn(*boxes)],
        "counts": lambda *boxes: [
            {"size": SIZE, "counts": [len([*run]) for _, run in itertools.groupby(m.T.ravel())]} for m in drawn(*boxes)
        ],
        "polygons": lambda *boxes: [[[x, y, u, y, u, v, x, v]] for x, y, u, v in boxes],
    }
    results = {
        name: coco_metrics([truth(*objects, masks=form(*objects))], [found(*guesses, masks=form(*guesses))], 1, "segm")
        for name, form in forms.items()
    }
    assert 0.5 < results["arrays"]["ap"] < 1
    assert all(result.pop("ap_per_class") == [result["ap"]] for result in results.values())
    for name, result in results.items():
        assert result == pytest.approx(results["arrays"], abs=0, nan_ok=True), name


def sizes_defined(kind, **others):
    large = box(0, 0, 100, 100)
    result = coco_metrics(
        [truth(large, **{"size": np.array(SIZE), **others})], [found(large, masks=drawn(large))], 1, kind
    )
    return [size for size in ("small", "medium", "large") if not np.isnan(result[f"ap_{size}"])]


def test_an_area_is_the_given_one_or_the_masks_or_the_boxs():
    masks = drawn(box(0, 0, 50, 50))
    assert sizes_defined("bbox") == ["large"]
    assert sizes_defined("bbox", masks=masks) == sizes_defined("segm", masks=masks) == ["medium"]
    assert sizes_defined("bbox", masks=masks, area=[9]) == sizes_defined("segm", masks=masks, area=[9]) == ["small"]


def test_detections_upon_a_crowd_count_neither_way_for_coco_and_difficult_ones_do():
    objects, detections = (box(0, 0, 90, 90), box(150)), [found(box(10), box(60), box(150))]
    assert coco_metrics([truth(*objects, crowd=[True, False])], detections, 1)["ap"] == pytest.approx(1)
    assert coco_metrics([truth(*objects, difficult=[True, False])], detections, 1)["ap"] < 0.2


def test_more_than_a_hundred_detections_count_where_they_are_asked_for():
    boxes = [box(15 * (i % 13), 11 * (i // 13), 12, 8) for i in range(130)]
    sides = [truth(*boxes)], [found(*boxes)]
    result = coco_metrics(*sides, 1, max_detections=200)
    assert [result[name] for name in ("ap", "ap_small", "ar", "ar1", "ar10")] == pytest.approx(
        [1, 1, 1, 1 / 130, 1 / 13]
    )
    result = coco_metrics(*sides, 1)
    assert result["ar"] == result["ar_small"] == pytest.approx(100 / 130) and result["ap"] < 0.8
    few = coco_metrics(*sides, 1, max_detections=5)
    assert [few[name] for name in ("ar1", "ar10", "ar")] == pytest.approx([1 / 130, 1 / 13, 5 / 130])


def test_pycocotools_is_quiet(capfd):
    coco_metrics([truth(box(0))], [found(box(0))], 1)
    assert capfd.readouterr() == ("", "")


def test_without_pycocotools_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(
        ImportError, match=r'coco_metrics needs pycocotools: pip install pycocotools or "keras_convnextv2\[detection\]"'
    ):
        coco_metrics([], [], 1)


@pytest.mark.parametrize("metric", [voc_average_precision, coco_metrics])
@pytest.mark.parametrize(
    "truths, detections, message",
    [
        ([truth()], [], "a dict for each picture. Received: 1 truths and 0 detections."),
        ([truth(), {"boxes": []}], [found()] * 2, "truths of picture 1 must have boxes, classes. Missing: classes."),
        ([truth()], [truth()], "detections of picture 0 must have boxes, scores, classes. Missing: scores."),
        ([truth(box(0)[:3])], [found()], r"truths of picture 0: boxes must be \(n, 4\). Received: \(1, 3\)."),
        (
            [truth()] * 2,
            [found(), found(box(0), scores=[0.5, 0.4])],
            r"detections of picture 1: 1 boxes need as many scores. Received: scores \(2,\).",
        ),
        ([truth()], [found(box(0), scores=[[0.5]])], r"as many scores. Received: scores \(1, 1\)."),
        ([truth(box(0), crowd=[])], [found()], r"truths of picture 0: .* crowd. Received: crowd \(0,\)."),
        ([truth(box(0), classes=[3])], [found()], "truths of picture 0: classes must be in 0..2, .* Received: 3."),
        ([truth()], [found(box(0), classes=[-1])], "detections of picture 0: .* without padding. Received: -1."),
    ],
)
def test_bad_pictures_are_named(metric, truths, detections, message):
    with pytest.raises(ValueError, match=message):
        metric(truths, detections, 3)


@pytest.mark.parametrize(
    "truths, detections, message",
    [
        (truth(box(0)), found(), "truths of picture 0: 1 boxes need as many masks. Received: 0 masks."),
        (truth(), found(box(0), masks=[]), "detections of picture 0: 1 boxes need as many masks. Received: 0 masks."),
        (truth(size=None), found(box(0), masks=drawn(box(0))), r"its truths must have size \(height, width\)."),
        (
            truth(),
            found(box(0), masks=np.ones((1, 28, 27))),
            r"detections of picture 0: mask 0 .* size \(120, 200\). Received: \(28, 27\).",
        ),
        (
            truth(box(0), masks=[{"size": [200, 120], "counts": [24000]}]),
            found(),
            r"truths of picture 0: mask 0 .* size \(120, 200\). Received: \(200, 120\).",
        ),
    ],
)
def test_bad_masks_are_named(truths, detections, message):
    with pytest.raises(ValueError, match=message):
        coco_metrics([truths], [detections], 1, "segm")


def test_unknown_kinds_and_points_are_named():
    with pytest.raises(ValueError, match=r"points must be one of \[11, 'all'\]. Received: 12."):
        voc_average_precision([], [], 1, points=12)
    with pytest.raises(ValueError, match="kind must be 'bbox' or 'segm'. Received: 'mask'."):
        coco_metrics([], [], 1, kind="mask")
