"""COCO's JSON: pictures, categories and annotations of a split in one file."""

import array
import json
import os
import re

import numpy as np

from training.data.decode import printable
from training.data.labelled import Labelled, numbered, present, subfolder
from training.data.objects import Stated, areas

LAYOUT = "PATH/annotations/{train,val,test}.json or instances_{train,val}2017.json"
_FILE = re.compile(r"(?:instances_)?(train|val|test)(\d{4})?\.json")  # of several years the last one
HUNDRED = 100  # COCO's coordinates have two decimals
_IMAGES = ("images", "jpegimages")


def splits(place):
    """{split: path of its JSON} of a folder; {} where it has another layout."""
    folder = subfolder(place, "annotations")
    names = sorted(os.listdir(folder)) if folder else []
    found = ((_FILE.fullmatch(name), os.path.join(folder, name)) for name in names)
    return {match[1]: path for match, path in found if match}


def read(path, place, split, classes):
    """The `Labelled` pictures of a JSON. Categories count from 0 in the order of their ids.

    Training pictures are without the annotations that are to be ignored; COCO's own numbers know none such.

    Raises:
        ValueError: a damaged file, an annotation without a row for its category or picture, an unknown class.
        FileNotFoundError: a picture is lacking.
    Source:
        mmdetection 3, datasets/coco.py, leaves out what has "ignore"; pycocotools overwrites it by "iscrowd".
    """
    name = printable(path)
    data = _loaded(path, name)
    names = {number: row["name"] for number, row in sorted(_by_id(data, "categories", "name", name).items())}
    _require_different(names, name)
    pictures = _by_id(data, "images", "file_name", name)
    found = _Annotations(name, pictures, names, data["annotations"], leave_out_ignored=split == "train")
    listed = tuple(classes) or tuple(names.values())
    labels = {number: numbered(names[number], listed, f"{name}, category {number}") for number in found.used}
    found.number(labels)
    return Labelled(listed, _files(path, place, split, pictures, name), found.stated)


def _loaded(path, name):
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file, object_hook=_shortened)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the annotations {name}: {error}".replace("\n", " ")) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise ValueError(f"{name} must have lists of images, annotations and categories. Received: no {key}.")
    if not data["images"]:
        raise ValueError(f"{name} must have images. Received: none.")
    return data


def _shortened(row):
    """An object of the JSON; polygons become arrays at once, a fraction of the memory, where they are numbers."""
    polygons = row.get("segmentation")
    if isinstance(polygons, list) and polygons:
        try:
            row["segmentation"] = [array.array("d", polygon) for polygon in polygons]
        except (TypeError, OverflowError):
            pass  # whoever takes them says whose they are
    return row


def _by_id(data, kind, key, name):
    """{id: row} of rows that have a text as `key`, too; raises where two have the same id."""
    found = {}
    for row in data[kind]:
        if not isinstance(row, dict) or not _known(row.get("id")) or not isinstance(row.get(key), str):
            rule = f"{name}: each row of {kind} must have an id and a {key}"
            raise ValueError(f"{rule}. Received: {str(row)[:80]}")
        if row["id"] in found:
            raise ValueError(f"{name}: each row of {kind} must have an id of its own. Received: {row['id']!r} twice")
        found[row["id"]] = row
    return found


def _known(value, among=None):
    """Whether a value can be an id, and is one of some."""
    return isinstance(value, int | float | str) and (among is None or value in among)


def _require_different(names, file):
    """Raises where two categories {id: name} have one name: their objects could not be told apart."""
    numbers = {}
    for number, name in names.items():
        if name in numbers:
            rule = f"{file}: categories must have names of their own"
            raise ValueError(f"{rule}. Received: {name!r} for the ids {numbers[name]} and {number}.")
        numbers[name] = number


class _Annotations:
    """The annotations of all pictures of a file, in arrays: each worker process has a copy.

    As Python's lists and dicts those of COCO take gigabytes.

    Args:
        pictures, names: {id: row} of the pictures, {id: name} of the categories.
        rows: of the file.
    """

    def __init__(self, name, pictures, names, rows, leave_out_ignored):
        self._name = name
        self._pictures = [(number, row["file_name"]) for number, row in pictures.items()]
        self._sizes = [_size(row, f"{name}, image {number}") for number, row in pictures.items()]
        places = {number: place for place, number in enumerate(pictures)}
        ids, of_picture, categories = [], array.array("q"), []
        boxes, sizes, crowds, self._outlines = array.array("d"), array.array("d"), bytearray(), _Outlines()
        for place, row in enumerate(rows):
            if not isinstance(row, dict):
                raise ValueError(f"{name}: annotations must be objects. Received: {str(row)[:80]}, number {place}.")
            if leave_out_ignored and row.get("ignore"):
                continue
            who = f"{name}, annotation {row.get('id', 'without an id')}"
            for key, known in (("category_id", names), ("image_id", places)):
                if not _known(row.get(key), known):
                    raise ValueError(f"{who}: its {key} must have a row. Received: {row.get(key)!r}.")
            ids.append(row.get("id", place))
            of_picture.append(places[row["image_id"]])
            categories.append(row["category_id"])
            _add_box(boxes, row.get("bbox"), who)
            sizes.append(_area(row.get("area"), who))
            crowds.append(bool(row.get("iscrowd")))
            self._outlines.add(row.get("segmentation"), who)
        self.used, self._categories = set(categories), categories
        self._ids = _compact(ids)
        self._order = np.argsort(of_picture, kind="stable").astype("int32")
        self._first = np.searchsorted(np.asarray(of_picture)[self._order], np.arange(len(pictures) + 1))
        self._boxes = np.array(boxes).reshape(-1, 4)
        self._boxes[:, 2:] += self._boxes[:, :2]
        self._areas, self._crowds = np.array(sizes), np.array(crowds, bool)
        bad = self._outlines.pack()
        if bad is not None:
            raise ValueError(f"{name}, annotation {ids[bad]}: its polygons must be finite numbers. Received: others.")

    def number(self, labels):
        """Takes {id of a category: number of its class}."""
        self._classes = np.array([labels[category] for category in self._categories], "int32")
        del self._categories

    def stated(self, index):
        """The `Stated` objects of a picture."""
        rows = self._order[self._first[index] : self._first[index + 1]]
        (number, file), outlines = self._pictures[index], tuple(self._outlines.of(row) for row in rows)
        boxes, given = self._boxes[rows], self._areas[rows]
        return Stated(
            name=f"{self._name}, image {number} ({file})",
            ids=tuple(self._ids[rows].tolist()),
            boxes=boxes,
            classes=self._classes[rows],
            size=self._sizes[index],
            crowd=self._crowds[rows],
            area=np.where(np.isnan(given), areas(boxes), given),
            segmentations=outlines if any(outline is not None for outline in outlines) else None,
        )


class _Outlines:
    """Polygons and RLE of many objects: all numbers in one array, hundredths where that is what a file holds."""

    def __init__(self):
        self._numbers, self._ends, self._counts = array.array("d"), array.array("q", [0]), array.array("q", [0])
        self._runs, self._unit = {}, 1

    def add(self, segmentation, who):
        """That of the next object."""
        if isinstance(segmentation, dict):
            self._runs[len(self._counts) - 1] = _with_short_counts(segmentation)
        elif segmentation is not None and not isinstance(segmentation, list):
            raise ValueError(f"{who}: its segmentation must be polygons or an RLE. Received: {segmentation!r}")
        for polygon in segmentation if isinstance(segmentation, list) else ():
            _add(self._numbers, polygon, who)
            self._ends.append(len(self._numbers))
        self._counts.append(len(self._ends) - 1)

    def pack(self):
        """Called after the last one; returns the place of an object with a number that is not finite, or None."""
        self._ends, self._counts = np.array(self._ends), np.array(self._counts)
        numbers = np.array(self._numbers)
        finite = np.isfinite(numbers)
        if not finite.all():
            polygon = np.searchsorted(self._ends, finite.argmin(), "right") - 1
            return np.searchsorted(self._counts, polygon, "right") - 1
        hundredths = np.rint(numbers * HUNDRED)
        if (abs(hundredths) < 2**31).all() and (hundredths / HUNDRED == numbers).all():
            numbers, self._unit = hundredths.astype("int32"), HUNDRED
        self._numbers = numbers
        return None

    def of(self, place):
        """A list of polygons, flat arrays, an RLE, or None."""
        first, stop = self._counts[place], self._counts[place + 1]
        if first == stop:
            return self._runs.get(int(place))
        return [self._numbers[self._ends[k] : self._ends[k + 1]] / self._unit for k in range(first, stop)]


def _with_short_counts(runs):
    """An RLE whose lengths, where they are a list, are an array."""
    counts = runs.get("counts")
    return {**runs, "counts": _compact(counts)} if isinstance(counts, list) else runs


def _compact(values):
    """A list as an array, of whole numbers if that is what it holds."""
    whole = all(type(value) is int and abs(value) < 2**63 for value in values)
    return np.array(values, "int64") if whole else np.fromiter(values, object)


def _add(numbers, values, who):
    """Lengthens an array by a list of numbers."""
    try:
        numbers.extend(values) if isinstance(values, array.array) else numbers.fromlist(values)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{who}: a list of numbers is needed. Received: {str(values)[:80]}") from error


def _add_box(boxes, box, who):
    have = len(boxes)
    _add(boxes, box, who)
    if len(boxes) - have != 4:
        raise ValueError(f"{who}: its bbox must be 4 numbers. Received: {box!r}")


def _area(given, who):
    """A number, NaN where none is given."""
    if given is None:
        return np.nan
    if not isinstance(given, int | float) or not np.isfinite(given):
        raise ValueError(f"{who}: its area must be a finite number. Received: {given!r}")
    return given


def _size(picture, who):
    """(H, W) of a row of a picture, or None."""
    if not {"height", "width"} <= set(picture):
        return None
    size = (picture["height"], picture["width"])
    if not all(isinstance(side, int | float) for side in size):
        raise ValueError(f"{who}: its height and width must be numbers. Received: {size}.")
    return size


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
