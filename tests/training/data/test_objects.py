"""Pictures with objects: published layouts, masks, and one line for whatever is wrong with a file."""

import builtins
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from tests.training.data.conftest import write_picture
from training.data import open_objects, require_objects, shapes
from training.data.objects import Objects, Stated, boxes_of, mask_of, runs_of

SIZE = (24, 20)  # of the pictures
CATEGORIES = [{"id": 90, "name": "brush"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]  # as sparse as COCO's
SQUARE = [4, 6, 10, 6, 10, 14, 4, 14]  # x 4..10, y 6..14


def annotation(number, image, category, box, **more):
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, **more}


def write_coco(path, annotations, names=("a.png", "b.png"), **more):
    """A JSON of pictures 1, 2, ...; returns its content."""
    images = [{"id": k, "file_name": name, "height": 24, "width": 20} for k, name in enumerate(names, 1)]
    data = {"images": images, "annotations": annotations, "categories": CATEGORIES, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return data


def coco_tree(root, annotations, pictures="images", file="annotations/train.json", **more):
    """With the same pictures and annotations as val, so that the training split is all of its file."""
    for name in ("a.png", "b.png"):
        write_picture(root / pictures / name, 1, SIZE)
    write_coco(root / file, annotations, **more)
    write_coco(root / file.replace("train", "val"), [])


def opened(source, index):
    picture, objects = source.opened(index)
    return objects, objects.masks(picture.size)


@pytest.mark.parametrize(
    "file, pictures",
    [
        ("annotations/train.json", "images"),
        ("annotations/train.json", "train"),
        ("annotations/train.json", "images/train"),
        ("annotations/train.json", ""),
        ("annotations/instances_train2017.json", "train2017"),
        ("Annotations/train.json", "JPEGImages"),
        ("Annotations/train.json", "JPEGImages/train"),
    ],
)
def test_coco_layouts_and_categories_in_the_order_of_their_ids(tmp_path, file, pictures):
    rows = [annotation(5, 2, 90, [1, 2, 3, 4]), annotation(9, 2, 3, [0.5, 1, 10.25, 20], area=77)]
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / pictures / name, 1, SIZE)
    write_coco(tmp_path / file, rows)
    write_picture(tmp_path / pictures.replace("train", "val") / "c.png", 1, SIZE)
    write_coco(tmp_path / file.replace("train", "val"), [], names=("c.png",))
    source = open_objects(f"folder:{tmp_path}", "train")
    assert source.classes == ("car", "cat", "brush") and source.count == 2
    (none, no_masks), (objects, masks) = opened(source, 0), opened(source, 1)
    assert len(none) == 0 and none.boxes.shape == (0, 4) and no_masks.shape == (0, 24, 20)
    np.testing.assert_array_equal(objects.boxes, np.array([[1, 2, 4, 6], [0.5, 1, 10.75, 21]], "float32"))
    assert objects.classes.tolist() == [2, 0] and objects.area.tolist() == [12, 77] and masks is None
    assert objects.boxes.dtype == np.float32 and objects.classes.dtype == np.int32
    assert [open_objects(f"folder:{tmp_path}", split).count for split in ("val", "test")] == [1, 1]


def test_the_newest_year_of_coco_counts(tmp_path):
    for year, names in (("2014", ("a.png",)), ("2017", ("a.png", "b.png"))):
        for split in ("train", "val"):
            write_coco(tmp_path / f"annotations/instances_{split}{year}.json", [], names=names)
            for name in names:
                write_picture(tmp_path / f"{split}{year}" / name, 1, SIZE)
    assert open_objects(f"folder:{tmp_path}", "train").count == 2


def test_polygons_and_both_kinds_of_rle_are_the_same_mask(tmp_path):
    from pycocotools import mask as coder

    square = np.zeros(SIZE, bool)
    square[6:14, 4:10] = True
    compressed = coder.encode(np.asfortranarray(square.astype("uint8")))
    compressed["counts"] = compressed["counts"].decode()
    plain = {"size": [24, 20], "counts": runs_of(compressed["counts"])}
    parts = [[4, 6, 7, 6, 7, 14, 4, 14], [7, 6, 10, 6, 10, 14, 7, 14]]  # the same in two polygons
    kinds = ([SQUARE], parts, compressed, plain)
    rows = [annotation(k, 1, 3, [4, 6, 6, 8], segmentation=kind) for k, kind in enumerate(kinds)]
    rows[3]["iscrowd"] = 1
    coco_tree(tmp_path, rows)
    objects, masks = opened(open_objects(f"folder:{tmp_path}", "train"), 0)
    np.testing.assert_array_equal(masks, np.stack([square] * 4))
    assert objects.crowd.tolist() == objects.trained.__invert__().tolist() == [False, False, False, True]
    np.testing.assert_array_equal(boxes_of(masks), objects.boxes)


def test_runs_are_those_of_pycocotools():
    from pycocotools import mask as coder

    rng = np.random.default_rng(0)
    for density in np.linspace(0, 1, 40):
        mask = rng.random(rng.integers(1, 90, 2)) <= density**2
        encoded = coder.encode(np.asfortranarray(mask.astype("uint8")))
        np.testing.assert_array_equal(mask_of(encoded, mask.shape), mask)


def test_without_pycocotools_polygons_say_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"polygons need pycocotools. Install it: pip install .*\[detection\]"):
        mask_of([SQUARE], SIZE)
    assert mask_of({"size": [1, 3], "counts": [1, 1, 1]}, (1, 3)).tolist() == [[False, True, False]]


def test_boxes_are_clipped_or_dropped_with_a_count(tmp_path):
    boxes = {
        11: [-5, 2, 10, 30],  # over the left and the lower border
        12: [4, 4, 0, 3],  # empty
        13: [8, 8, -3, 2],  # inverted
        14: [25, 2, 4, 4],  # outside
        15: [1, 1, 19, 23],
    }
    coco_tree(tmp_path, [annotation(k, 1, 3, box) for k, box in boxes.items()])
    source, said = open_objects(f"folder:{tmp_path}", "train"), []
    objects, _ = opened(source, 0)
    assert objects.boxes.tolist() == [[0, 2, 5, 24], [1, 1, 20, 24]]
    assert objects.clipped == (11,) and objects.dropped == (12, 13, 14)
    require_objects(source, lambda text, **_: said.append(text))
    clipped, dropped = said
    assert "1 boxes reach outside of their pictures and are clipped; the first one" in clipped
    assert "train.json, image 1 (a.png), object 11" in clipped
    assert "3 boxes are empty: left out" in dropped and dropped.endswith("object 12")


@pytest.mark.parametrize(
    "row, message",
    [
        ({"category_id": 4}, "train.json, annotation 7: its category_id must have a row. Received: 4"),
        ({"image_id": 8}, "train.json, annotation 7: its image_id must have a row. Received: 8"),
        ({"bbox": [1, 2, 3]}, r"annotation 7: its bbox must be 4 numbers. Received: \[1, 2, 3\]"),
        ({"bbox": ["x", 2, 3, 4]}, "annotation 7: a list of numbers is needed. Received: .'x', 2"),
        (
            {"bbox": [1, 2, float("nan"), 3]},
            r"image 1 \(a.png\), object 7 must have a finite box. Received: .1.0, 2.0, nan",
        ),
        (
            {"segmentation": {"size": [20, 24], "counts": [480]}},
            r"train.json, image 1 \(a.png\), object 7: its mask must have the size of the picture, \(24, 20\). "
            r"Received: \(20, 24\)",
        ),
        ({"segmentation": {"size": [24, 20], "counts": [5, 3]}}, "runs of its mask must fill 480 pixels. Received: 8"),
        ({"segmentation": {"size": [24, 20], "counts": "63"}}, "object 7: the runs of its mask must fill 480 pixels"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "object 7: its polygons must have as many y as x"),
        (
            {"segmentation": [[1, 2, 3, 4, 5, "x"]]},
            "annotation 7: a list of numbers is needed. Received: .1, 2, 3, 4, 5, 'x'",
        ),
        (
            {"segmentation": [SQUARE, [1, 2, 3, 4, 5, float("nan")]]},
            "annotation 7: its polygons must be finite numbers",
        ),
        ({"segmentation": "x"}, "annotation 7: its segmentation must be polygons or an RLE. Received: 'x'"),
        (
            {"segmentation": {"counts": [480]}},
            r"object 7: an RLE must have size \(height, width\) and counts. Received: ",
        ),
        ({"area": float("inf")}, "annotation 7: its area must be a finite number. Received: inf"),
        ({"image_id": [1]}, r"annotation 7: its image_id must have a row. Received: \[1\]"),
    ],
)
def test_a_bad_annotation_is_named(tmp_path, row, message):
    coco_tree(tmp_path, [{**annotation(7, 1, 3, [1, 2, 3, 4]), **row}])
    with pytest.raises(ValueError, match=message):
        opened(open_objects(f"folder:{tmp_path}", "train"), 0)


def test_what_is_ignored_is_left_out_of_training_alone(tmp_path):
    rows = [annotation(7, 1, 3, [1, 2, 3, 4], ignore=1), annotation(8, 1, 3, [1, 2, 3, 4], ignore=0)]
    coco_tree(tmp_path, rows)
    write_coco(tmp_path / "annotations" / "val.json", rows)
    assert [len(opened(open_objects(f"folder:{tmp_path}", split), 0)[0]) for split in ("train", "val")] == [1, 2]


def test_crowds_and_difficult_objects_need_no_mask(tmp_path):
    box = [1.5, 2, 3, 4]
    rows = [annotation(7, 1, 3, [4, 6, 6, 8], segmentation=[SQUARE]), annotation(8, 1, 3, box, iscrowd=1)]
    coco_tree(tmp_path, [*rows, annotation(9, 2, 3, box, iscrowd=1)])
    source = open_objects(f"folder:{tmp_path}", "train")
    require_objects(source, print, masks=True)
    for index in range(2):
        objects, masks = opened(source, index)
        np.testing.assert_array_equal(boxes_of(masks)[-1], [1, 2, 5, 6])
        assert len(objects.only(objects.trained).masks(SIZE)) == 1 - index
    hard = Stated(name="x", ids=(0,), boxes=np.array([[0, 0, 4, 4]]), classes=[0], difficult=np.array([True]))
    assert hard.within(SIZE).masks(SIZE).sum() == 16


def test_numbers_of_polygons_stay_what_they_are(tmp_path):
    from pycocotools import mask as coder

    rng = np.random.default_rng(0)
    for decimals in (0, 2, 9):
        polygons = [[np.round(rng.uniform(0, 19, 2 * n), decimals).tolist() for n in (5, 9)] for _ in range(6)]
        rows = [annotation(k, 1 + k % 2, 3, [1, 2, 3, 4], segmentation=x) for k, x in enumerate(polygons)]
        coco_tree(tmp_path, rows)
        source = open_objects(f"folder:{tmp_path}", "train")
        masks = np.concatenate([opened(source, index)[1] for index in range(2)])
        wanted = [coder.decode(coder.merge(coder.frPyObjects(polygons[k], *SIZE))) for k in (0, 2, 4, 1, 3, 5)]
        np.testing.assert_array_equal(masks, wanted)


def test_a_worker_process_gets_a_fraction_of_a_file(tmp_path):
    import cloudpickle  # what grain hands a source over with

    polygon = np.round(np.linspace(0, 19, 40), 2).tolist()
    rows = [annotation(k, 1, 3, [1.25, 2.5, 3, 4], segmentation=[polygon], area=12.5) for k in range(2000)]
    coco_tree(tmp_path, rows)
    source = open_objects(f"folder:{tmp_path}", "train")
    copy = cloudpickle.dumps(source)
    assert len(copy) < 0.65 * (tmp_path / "annotations" / "train.json").stat().st_size
    assert len(pickle.loads(copy).opened(0)[1]) == 2000


def test_a_mask_that_lacks_beside_others_and_lacking_masks_are_named(tmp_path):
    rows = [annotation(7, 1, 3, [1, 2, 3, 4], segmentation=[SQUARE]), annotation(8, 1, 3, [1, 2, 3, 4])]
    coco_tree(tmp_path, [*rows, annotation(9, 2, 3, [1, 2, 3, 4])])
    source = open_objects(f"folder:{tmp_path}", "train")
    with pytest.raises(ValueError, match="object 8: it has no mask, though others have"):
        opened(source, 0)
    with pytest.raises(ValueError, match="object 8: it has no mask"):
        require_objects(source, print, masks=True)
    require_objects(source, print)
    with pytest.raises(ValueError, match=r"masks need polygons or RLE. Received: .*image 2 \(b.png\), which has boxes"):
        require_objects(source.subset([1]), print, masks=True)


def test_all_bad_objects_are_named_at_once(tmp_path):
    short = {"size": list(SIZE), "counts": [5, 3]}
    rows = [annotation(7 + k, k, 3, [1, 2, 3, 4], segmentation=short) for k in (1, 2)]
    coco_tree(tmp_path, rows)
    source = open_objects(f"folder:{tmp_path}", "train")
    runs = "the runs of its mask must fill 480 pixels. Received: 8"
    with pytest.raises(ValueError, match=f"Received: 2 that are not: .*object 8: {runs}; .*object 9: {runs}$"):
        require_objects(source, print, masks=True, lacking=True)
    (tmp_path / "images" / "b.png").write_text("no picture")
    with pytest.raises(ValueError, match="Received: 1 that are not: cannot read the image .*b.png: not a picture"):
        require_objects(source, print)
    coco_tree(tmp_path, [annotation(7, 1, 3, [1, 2, 3, 4])])
    boxes = open_objects(f"folder:{tmp_path}", "train")
    require_objects(boxes, print, masks=True, lacking=True)
    with pytest.raises(ValueError, match="masks need polygons or RLE"):
        require_objects(boxes, print, masks=True)


def test_a_picture_of_another_size_than_stated_is_named(tmp_path):
    coco_tree(tmp_path, [])
    write_picture(tmp_path / "images" / "b.png", 1, (20, 24))
    with pytest.raises(
        ValueError, match=r"image 2 \(b.png\) must state the size of its picture, \(20, 24\). .*\(24, 20\)"
    ):
        require_objects(open_objects(f"folder:{tmp_path}", "train"), print)


def test_a_lacking_picture_is_named_with_its_id(tmp_path):
    coco_tree(tmp_path, [])
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match="train.json, image 2: there is no file .*images/b.png"):
        open_objects(f"folder:{tmp_path}", "train")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "cannot read the annotations .*train.json: Expecting"),
        ("[]", "train.json must have lists of images, annotations and categories. Received: no images"),
        ('{"images": [], "annotations": [], "categories": []}', "train.json must have images. Received: none"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": []}',
            "train.json: each row of images must have an id and a file_name. Received: {'id': 1}",
        ),
        (
            '{"images": [7], "annotations": [], "categories": []}',
            "train.json: each row of images must have an id and a file_name. Received: 7",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [[]], "categories": []}',
            r"train.json: annotations must be objects. Received: \[\], number 0",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}],'
            ' "annotations": [], "categories": []}',
            "each row of images must have an id of its own. Received: 1 twice",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [], '
            '"categories": [{"id": 3, "name": "car"}, {"id": 5, "name": "car"}]}',
            "train.json: categories must have names of their own. Received: 'car' for the ids 3 and 5",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a", "height": "24", "width": 20}],'
            ' "annotations": [], "categories": []}',
            r"image 1: its height and width must be numbers. Received: \('24', 20\)",
        ),
    ],
)
def test_a_broken_json_is_named(tmp_path, text, message):
    coco_tree(tmp_path, [])
    (tmp_path / "annotations" / "train.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_objects(f"folder:{tmp_path}", "train")


def test_given_classes_number_the_objects_and_refuse_others(tmp_path):
    coco_tree(tmp_path, [annotation(7, 1, 90, [1, 2, 3, 4])])
    source = open_objects(f"folder:{tmp_path}", "train", classes=("brush", "car"))  # no object is a cat
    assert source.classes == ("brush", "car") and opened(source, 0)[0].classes.tolist() == [0]
    with pytest.raises(ValueError, match="train.json, category 90: classes must be among car, cat. Received: 'brush'"):
        open_objects(f"folder:{tmp_path}", "train", classes=("car", "cat"))


def test_pictures_without_objects_and_small_ones_can_be_left_out(tmp_path):
    crowd = annotation(8, 1, 3, [1, 2, 3, 4], iscrowd=1)
    coco_tree(tmp_path, [annotation(7, 2, 3, [1, 2, 3, 4]), crowd])
    counts = [
        open_objects(f"folder:{tmp_path}", "train", **options).count
        for options in ({}, {"filter_empty": True}, {"min_size": 20}, {"min_size": 20, "filter_empty": True})
    ]
    assert counts == [2, 1, 2, 1]
    source = open_objects(f"folder:{tmp_path}", "train", filter_empty=True)
    assert source.classes == ("car", "cat", "brush") and "image 2" in opened(source, 0)[0].name
    with pytest.raises(
        ValueError, match="some pictures must remain. Received: .*min_size=21, which leave none of the 2"
    ):
        open_objects(f"folder:{tmp_path}", "train", min_size=21)


def test_a_training_file_alone_is_divided_by_name(tmp_path):
    names = [f"{k}.png" for k in range(10)]
    for name in names:
        write_picture(tmp_path / "images" / name, 1, SIZE)
    write_coco(tmp_path / "annotations" / "train.json", [], names=names)
    found = {
        split: [
            source.opened(k)[1].name
            for source in [open_objects(f"folder:{tmp_path}", split, validation_split=0.3)]
            for k in range(source.count)
        ]
        for split in ("train", "val", "test")
    }
    assert found["val"] == found["test"] and not set(found["train"]) & set(found["val"])
    assert len(found["train"]) + len(found["val"]) == 10 and found["val"]


def voc_object(label, box, difficult=None):
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{label}</name>{flag}<bndbox>{sides}</bndbox></object>"


def write_voc(root, name, *objects, suffix=".jpg"):
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    text = "<folder>elsewhere</folder><size><width>0</width><height>0</height></size>" + "".join(objects)
    (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    write_picture(root / "JPEGImages" / f"{name}.png", 1, SIZE)
    (root / "JPEGImages" / f"{name}.png").rename(root / "JPEGImages" / f"{name}{suffix}")


def write_lists(root, **lists):
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    for split, names in lists.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def voc_tree(root):
    """SAR-AIRcraft-1.0 as it is published."""
    write_voc(root, "0000001", voc_object("A330", (1, 1, 20, 24)), voc_object("A320/321", (3, 4, 9.5, 10), 1))
    write_voc(root, "0000002", voc_object("other", (2, 3, 8, 9), 0), suffix=".png")
    write_voc(root, "0000003")
    write_voc(root, "0000004", voc_object("A330", (2, 3, 8, 9)))
    write_lists(root, train=["0000002", "0000001"], val=["0000003"], test=["0000004"], trainval=["0000001"])


def test_an_empty_list_is_refused_and_an_empty_flag_is_none(tmp_path):
    write_voc(tmp_path, "a", voc_object("ship", (2, 3, 8, 9), ""))
    write_lists(tmp_path, train=["a"], test=[])
    objects, _ = opened(open_objects(f"folder:{tmp_path}", "train"), 0)
    assert objects.difficult.tolist() == [False]
    with pytest.raises(ValueError, match="a list must name pictures. Received: none in .*test.txt"):
        open_objects(f"folder:{tmp_path}", "test", classes=("ship",))


@pytest.mark.parametrize("inner", ["", "VOC2007"])
def test_voc_layout(tmp_path, inner):
    voc_tree(tmp_path / inner)
    source = open_objects(f"folder:{tmp_path}", "train")
    assert source.classes == ("A320/321", "A330", "other") and source.count == 2
    objects, masks = opened(source, 1)
    np.testing.assert_array_equal(objects.boxes, [[0, 0, 19, 23], [2, 3, 8.5, 9]])  # less the first pixel's number
    assert objects.classes.tolist() == [1, 0] and objects.difficult.tolist() == [False, True] and masks is None
    assert objects.trained.tolist() == [True, False] and objects.area.tolist() == [19 * 23, 6.5 * 6]
    (tests,), (vals,) = ([opened(open_objects(f"folder:{tmp_path}", split), 0)[0]] for split in ("test", "val"))
    assert tests.classes.tolist() == [1] and len(vals) == 0  # numbers of the training files
    given = open_objects(f"folder:{tmp_path}", "test", classes=("A330", "other"))
    assert opened(given, 0)[0].classes.tolist() == [0]
    left = open_objects(f"folder:{tmp_path}", "train", filter_empty=True, min_size=20)
    assert left.count == 2 and open_objects(f"folder:{tmp_path}", "val").count == 1


def test_voc_without_a_training_list_takes_trainval_and_test_falls_back_to_val(tmp_path):
    voc_tree(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "train.txt").unlink()
    assert open_objects(f"folder:{tmp_path}", "train").count == 1
    (tmp_path / "ImageSets" / "Main" / "test.txt").unlink()
    assert "0000003" in opened(open_objects(f"folder:{tmp_path}", "test"), 0)[0].name


@pytest.mark.parametrize(
    "objects, message",
    [
        (["<object><name>A330</name></object>"], "0000001.xml, object 0 must have a bndbox/xmin. Received: none"),
        ([voc_object("", (1, 2, 3, 4))], "0000001.xml, object 0 must have a name. Received: none"),
        ([voc_object("A330", (1, "x", 3, 4))], "object 0 must have a number as bndbox/ymin. Received: 'x'"),
        ([voc_object("A330", (1, 2, "inf", 4))], "object 0 must have a finite box"),
        (
            [voc_object("other", (1, 2, 3, 4)), voc_object("B", (1, 2, 3, 4))],
            "0000001.xml, object 1: classes must be .*'B'",
        ),
        (["<object>"], "cannot read the annotations .*0000001.xml: mismatched tag"),
    ],
)
def test_a_bad_xml_is_named(tmp_path, objects, message):
    voc_tree(tmp_path)
    write_voc(tmp_path, "0000001", *objects)
    with pytest.raises(ValueError, match=message):
        require_objects(open_objects(f"folder:{tmp_path}", "train", classes=("A330", "other")), print)


@pytest.mark.parametrize("folder, suffix", [("JPEGImages", "jpg"), ("Annotations", "xml")])
def test_a_lacking_voc_file_is_named(tmp_path, folder, suffix):
    voc_tree(tmp_path)
    (tmp_path / folder / f"0000001.{suffix}").unlink()
    with pytest.raises(FileNotFoundError, match=f"train.txt, 0000001: there is no file .*0000001.{suffix}"):
        open_objects(f"folder:{tmp_path}", "train")


def dota_tree(root, labels="labels"):
    """SAR-AIRcraft-1.0 as GrokSAR has it."""
    lines = {
        "train": "imagesource:x\ngsd:1\n3 2 9 4 8 10 2 8 A320/321 0\n0 0 5 0 5 6 0 6 other 1\n1 1 4 1 4 4 1 4 other 2",
        "val": "3 2 9 2 9 10 3 10 other\n",
        "test": "",
    }
    for split, text in lines.items():
        write_picture(root / split / "images" / "p.png", 1, SIZE)
        (root / split / labels).mkdir(parents=True)
        (root / split / labels / "p.txt").write_text(text)


@pytest.mark.parametrize("inner, labels", [("", "labels"), ("dota", "annfiles")])
def test_dota_layout(tmp_path, inner, labels):
    dota_tree(tmp_path / inner, labels)
    source = open_objects(f"folder:{tmp_path}", "train")
    assert source.classes == ("A320/321", "other")
    objects, masks = opened(source, 0)
    np.testing.assert_array_equal(objects.boxes, [[2, 2, 9, 10], [0, 0, 5, 6], [1, 1, 4, 4]])
    assert objects.classes.tolist() == [0, 1, 1] and objects.difficult.tolist() == [False, True, False]
    assert masks is None
    assert opened(open_objects(f"folder:{tmp_path}", "val"), 0)[0].classes.tolist() == [1]
    assert len(opened(open_objects(f"folder:{tmp_path}", "test"), 0)[0]) == 0


@pytest.mark.parametrize("line", ["1 2 3 4 5 6 other 0", "1 2 3 4 5 6 7 x other 0", "1 2 3 4 5 6 7 8 other x"])
def test_a_bad_dota_line_is_named(tmp_path, line):
    dota_tree(tmp_path)
    (tmp_path / "train" / "labels" / "p.txt").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match="p.txt, line 2 must be 8 coordinates, a class and a difficulty"):
        open_objects(f"folder:{tmp_path}", "train")


def test_a_lacking_dota_file_and_an_unknown_class_are_named(tmp_path):
    dota_tree(tmp_path)
    with pytest.raises(ValueError, match="p.txt, object 1: classes must be among A320/321. Received: 'other'"):
        require_objects(open_objects(f"folder:{tmp_path}", "train", classes=("A320/321",)), print)
    write_picture(tmp_path / "train" / "images" / "q.png", 1, SIZE)
    with pytest.raises(FileNotFoundError, match="q.png: there is no file .*q.txt"):
        open_objects(f"folder:{tmp_path}", "train")


def test_other_layouts_splits_and_words_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="pictures with objects need a folder, laid out as PATH/annotations/"):
        open_objects(f"folder:{tmp_path}", "train")
    voc_tree(tmp_path / "VOC2007")
    (tmp_path / "VOC2007" / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(FileNotFoundError, match="must have the split val. Found: train, test"):
        open_objects(f"folder:{tmp_path}", "val")
    dota_tree(tmp_path / "dota")
    with pytest.raises(ValueError, match="must hold one set. Received: .*VOC2007, .*dota"):
        open_objects(f"folder:{tmp_path}", "train")
    with pytest.raises(ValueError, match="pictures with objects must be shapes, shapes:COUNT or folder:PATH"):
        open_objects("tfds:coco", "train")
    with pytest.raises(ValueError, match="split must be one of train, val, test. Received: 'unlabelled'"):
        open_objects("shapes", "unlabelled")


def test_a_picture_may_have_one_channel_or_three(tmp_path):
    dota_tree(tmp_path)
    Image.fromarray(np.arange(480, dtype="uint8").reshape(SIZE)).save(tmp_path / "train" / "images" / "p.png")
    grey, colour = (open_objects(f"folder:{tmp_path}", "train", channels=n).picture(0) for n in (1, 3))
    assert grey.shape == (*SIZE, 1)
    np.testing.assert_array_equal(colour, np.repeat(grey, 3, -1))


def test_drawn_objects_lie_where_their_pixels_are():
    source = open_objects("shapes:40", "train")
    assert source.classes == shapes.CLASSES and source.count == 40
    plain, labels = shapes.shapes(40, "train")
    counts = []
    for index in range(40):
        picture, objects = source.opened(index)
        masks = objects.masks(picture.size)
        counts.append(len(objects))
        np.testing.assert_array_equal(boxes_of(masks), objects.boxes)
        np.testing.assert_array_equal(objects.area, masks.sum((1, 2)))
        assert objects.classes[0] == labels[index] and masks.sum(0).max() == 1  # nothing is in two objects
        changed = (picture.array != plain[index]).any(-1)
        assert not (changed & ~masks[1:].any(0)).sum() > 0.35 * max(changed.sum(), 1)  # but for soft edges
    assert set(counts) == {1, 2, 3}
    prefix, later = open_objects("shapes:4", "train"), shapes.shapes_with_objects(1, "train", first=3)
    np.testing.assert_array_equal(prefix.picture(3), later[0][0])
    np.testing.assert_array_equal(prefix.picture(3), source.picture(3))
    pictures = [open_objects("shapes:4", split).picture(0) for split in ("test", "val")]
    np.testing.assert_array_equal(*pictures)
    assert (pictures[0] != source.picture(0)).any()


def test_small_drawn_objects_lie_in_different_quarters():
    _, _, masks = shapes.shapes_with_objects(60, "train")
    used = []
    for found in masks:
        quarters = [tuple(np.argwhere(mask)[0] // 32) for mask in found[1:]]
        assert len(set(quarters)) == len(quarters)
        assert all(mask.sum() == mask.reshape(2, 32, 2, 32).sum((1, 3)).max() for mask in found[1:])
        used += quarters
    assert len(set(used)) == 4


def test_drawn_classes_may_have_another_order():
    order = shapes.CLASSES[::-1]
    first, second = (open_objects("shapes:3", "train", classes=classes) for classes in ((), order))
    for index in range(3):
        names = [[source.classes[k] for k in source.opened(index)[1].classes] for source in (first, second)]
        assert names[0] == names[1]
    with pytest.raises(ValueError, match=r"classes must have those of shapes: disc, ring.*Received: \('cat',\)"):
        open_objects("shapes:3", "train", classes=("cat",))


def test_some_objects_of_many():
    stated = Stated(
        name="x",
        ids=("p", "q"),
        boxes=np.array([[0, 0, 2, 2], [1, 1, 3, 4]]),
        classes=[4, 5],
        segmentations=([], [SQUARE]),
    )
    objects = stated.within(SIZE)
    some = objects.only(np.array([False, True]))
    assert isinstance(some, Objects) and some.classes.tolist() == [5] and len(objects) == 2
    np.testing.assert_array_equal(some.masks(SIZE), objects.masks(SIZE)[1:])


@pytest.fixture(scope="module")
def real(data_folder, tmp_path_factory):
    """The folders of the nuclei and of the blood cells."""
    place = tmp_path_factory.mktemp("real")
    for name in ("nuclei_coco", "bccd_voc"):
        with tarfile.open(data_folder / f"{name}.tar") as archive:
            archive.extractall(place / name, filter="data")
    return place


@pytest.mark.parametrize("split, pictures, instances", [("train", 200, 8469), ("val", 40, 1352)])
def test_nuclei(real, split, pictures, instances):
    source = open_objects(f"folder:{real / 'nuclei_coco'}", split)
    assert source.classes == ("nucleus",) and source.count == pictures
    assert sum(len(source.opened(index)[1]) for index in range(pictures)) == instances
    said = []
    kinds = {}  # of the annotations of each picture
    for row in json.loads((real / "nuclei_coco" / "nuclei" / "annotations" / f"{split}.json").read_text())[
        "annotations"
    ]:
        kinds.setdefault(row["image_id"], set()).add(type(row["segmentation"]))
    first = min(kinds)
    mixed = [number - first for number, found in kinds.items() if len(found) == 2]  # polygons, and a mask with a hole
    assert len(mixed) == (split == "train")
    for index in [*range(0, pictures, 10), *mixed]:
        picture, objects = source.opened(index)
        masks = objects.masks(picture.size)
        np.testing.assert_array_equal(masks.sum((1, 2)), objects.area)
        np.testing.assert_array_equal(boxes_of(masks), objects.boxes)
    require_objects(source, lambda text, **_: said.append(text))
    assert not said


def test_blood_cells_and_their_two_empty_boxes(real):
    counts, said = {}, []
    for split, pictures in (("train", 205), ("val", 87), ("test", 72)):
        source = open_objects(f"folder:{real / 'bccd_voc'}", split)
        assert source.classes == ("Platelets", "RBC", "WBC") and source.count == pictures
        require_objects(source, lambda text, **_: said.append(text))
        found = [source.opened(index)[1] for index in range(pictures)]
        counts[split] = np.bincount(np.concatenate([objects.classes for objects in found])).tolist()
        assert min(objects.boxes.min() for objects in found) >= 0 and not any(objects.clipped for objects in found)
        assert max(objects.boxes[:, 2].max() for objects in found) <= 639
    assert counts == {"train": [209, 2381, 214], "val": [83, 967, 87], "test": [69, 805, 71]}
    assert [text.split("/")[-1] for text in said] == [
        "BloodImage_00343.xml, object 3",
        "BloodImage_00338.xml, object 12",
    ]
