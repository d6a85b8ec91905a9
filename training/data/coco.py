"""COCO's JSON: pictures, categories and annotations of a split in one file."""

import json
import os
import re

import numpy as np

from training.data.decode import printable
from training.data.labelled import Labelled, numbered, present, subfolder
from training.data.objects import Stated

LAYOUT = "PATH/annotations/{train,val,test}.json or instances_{train,val}2017.json"
_FILE = re.compile(r"(?:instances_)?(train|val|test)(\d{4})?\.json")  # of several years the last one
_IMAGES = ("images", "jpegimages")


def splits(place):
    """{split: path of its JSON} of a folder; {} where it has another layout."""
    folder = subfolder(place, "annotations")
    names = sorted(os.listdir(folder)) if folder else []
    found = ((_FILE.fullmatch(name), os.path.join(folder, name)) for name in names)
    return {match[1]: path for match, path in found if match}


def read(path, place, split, classes):
    """The `Labelled` pictures of a JSON. Categories count from 0 in the order of their ids.

    Raises:
        ValueError: a damaged file, an annotation without a row for its category or picture, an unknown class.
        FileNotFoundError: a picture is lacking.
    """
    name = printable(path)
    data = _loaded(path, name)
    names = {number: row["name"] for number, row in sorted(_by_id(data["categories"], "name", name).items())}
    pictures = _by_id(data["images"], "file_name", name)
    objects, used = {number: [] for number in pictures}, set()
    for row in data["annotations"]:
        who = f"{name}, annotation {row.get('id', 'without an id')}"
        for key, known in (("category_id", names), ("image_id", pictures)):
            if row.get(key) not in known:
                raise ValueError(f"{who}: its {key} must have a row. Received: {row.get(key)!r}.")
        objects[row["image_id"]].append(_checked(row, who))
        used.add(row["category_id"])
    listed = tuple(classes) or tuple(names.values())
    labels = {number: numbered(names[number], listed, f"{name}, category {number}") for number in used}
    files = _files(path, place, split, pictures, name)
    numbers = list(pictures)

    def stated(index):
        return _stated(pictures[numbers[index]], objects[numbers[index]], labels, name)

    return Labelled(listed, files, stated)


def _loaded(path, name):
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the annotations {name}: {error}".replace("\n", " ")) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise ValueError(f"{name} must have lists of images, annotations and categories. Received: no {key}.")
    if not data["images"]:
        raise ValueError(f"{name} must have images. Received: none.")
    return data


def _by_id(rows, key, name):
    """{id: row} of rows that have `key`, too; raises where two have the same id."""
    found = {}
    for row in rows:
        if not {"id", key} <= set(row) or row["id"] in found:
            raise ValueError(f"{name}: each row must have an id of its own and {key}. Received: {str(row)[:80]}")
        found[row["id"]] = row
    return found


def _checked(row, who):
    """An annotation with its box and its polygons as arrays, which take a fraction of the memory of lists."""
    box, segmentation = _numbers(row.get("bbox"), who), row.get("segmentation") or None
    if len(box) != 4:
        raise ValueError(f"{who}: its bbox must be 4 numbers. Received: {row.get('bbox')!r}")
    if isinstance(segmentation, list):
        segmentation = [_numbers(polygon, who) for polygon in segmentation]
    return {**row, "bbox": box, "segmentation": segmentation}


def _numbers(values, who):
    try:
        return np.array(values, "float64").reshape(-1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{who}: a list of numbers is needed. Received: {str(values)[:80]}") from error


def _stated(picture, rows, labels, name):
    boxes = np.stack([row["bbox"] for row in rows]) if rows else np.zeros((0, 4))
    boxes[:, 2:] += boxes[:, :2]
    size = (picture["height"], picture["width"]) if {"height", "width"} <= set(picture) else None
    outlines = tuple(row["segmentation"] for row in rows)
    return Stated(
        name=f"{name}, image {picture['id']} ({picture['file_name']})",
        ids=tuple(row.get("id", k) for k, row in enumerate(rows)),
        boxes=boxes,
        classes=np.array([labels[row["category_id"]] for row in rows], "int32"),
        size=size,
        crowd=np.array([bool(row.get("iscrowd")) for row in rows], bool),
        area=np.array([row.get("area", np.prod(box[2:] - box[:2])) for row, box in zip(rows, boxes, strict=True)]),
        segmentations=outlines if any(outline is not None for outline in outlines) else None,
    )


def _files(path, place, split, pictures, name):
    """The path of each picture, in the folder that has the first one."""
    names = [row["file_name"] for row in pictures.values()]
    year = _FILE.fullmatch(os.path.basename(path))[2] or ""
    homes = [home for home in (subfolder(place, found) for found in _IMAGES) if home]
    inner = [os.path.join(home, part) for home in (*homes, place) for part in (f"{split}{year}", split)]
    tried = [*homes, *inner, place]
    home = next((home for home in tried if os.path.isfile(os.path.join(home, names[0]))), tried[0])
    files = [os.path.join(home, file) for file in names]
    present(files, [f"{name}, image {number}" for number in pictures])
    return files
