"""Pascal VOC's XML: a file a picture, and lists of names for the splits."""

import os
import xml.etree.ElementTree as ElementTree

import numpy as np

from training.data.decode import SUFFIXES, lines_of, printable
from training.data.labelled import Labelled, numbered, present, subfolder
from training.data.objects import Stated

LAYOUT = "PATH/{Annotations/*.xml,JPEGImages/*,ImageSets/Main/{train,val,test}.txt}"
SIDES = ("xmin", "ymin", "xmax", "ymax")
FIRST_PIXEL = 1  # in the coordinates of the files


def splits(place):
    """{split: path of its list} of a folder; {} where it has another layout. Without train.txt, trainval.txt is it."""
    folder = subfolder(place, "annotations")
    if folder is None or not any(name.lower().endswith(".xml") for name in os.listdir(folder)):
        return {}
    lists = {split: os.path.join(place, "ImageSets", "Main", f"{split}.txt") for split in ("train", "val", "test")}
    there = {split: path for split, path in lists.items() if os.path.isfile(path)}
    both = os.path.join(place, "ImageSets", "Main", "trainval.txt")
    return {"train": both, **there} if os.path.isfile(both) else there


def read(path, place, split, classes):
    """The `Labelled` pictures of a list. Classes without `classes`: those of the training list, sorted.

    Boxes come out with FIRST_PIXEL subtracted from all four sides and nothing added to the last ones, so that a box
    xmin = xmax is empty and a box of 1..640 is 0..639.

    Raises:
        ValueError: a damaged file, an unknown class, an object without a box.
        FileNotFoundError: a picture or an XML file is lacking.
    Source:
        mmdetection 3, datasets/xml_style.py, whose training and metric see these coordinates. `<size>`, `<folder>`,
        `<filename>` and `<path>` are not read: in published sets they are often those of another place.
    """
    folder, images = subfolder(place, "annotations"), subfolder(place, "jpegimages")
    names = lines_of(path)
    if not names:
        raise ValueError(f"a list must name pictures. Received: none in {printable(path)}.")
    by_name = _pictures(images)
    files = [by_name.get(name, os.path.join(images or place, f"{name}.jpg")) for name in names]
    labels = [os.path.join(folder, f"{name}.xml") for name in names]
    who = [f"{printable(path)}, {name}" for name in names]
    present(files, who)
    present(labels, who)
    classes = tuple(classes) or _collected(labels, splits(place).get("train"), path, folder)
    return Labelled(classes, files, lambda index: _stated(labels[index], classes))


def _pictures(folder):
    """{name without suffix: path}"""
    names = sorted(os.listdir(folder)) if folder else []
    parts = ((os.path.splitext(name), name) for name in names)
    return {stem: os.path.join(folder, name) for (stem, suffix), name in parts if suffix.lower() in SUFFIXES}


def _collected(labels, train, path, folder):
    if train is not None and train != path:
        labels = [os.path.join(folder, f"{name}.xml") for name in lines_of(train)]
    return tuple(sorted({name for file in labels for name, _, _ in _objects(file)}))


def _stated(path, classes):
    name, rows = printable(path), _objects(path)
    return Stated(
        name=name,
        ids=tuple(range(len(rows))),
        boxes=np.array([box for _, box, _ in rows]).reshape(-1, 4) - FIRST_PIXEL,
        classes=np.array([numbered(label, classes, f"{name}, object {k}") for k, (label, _, _) in enumerate(rows)]),
        difficult=np.array([difficult for _, _, difficult in rows], bool),
    )


def _objects(path):
    """[(class, sides, whether it is difficult)] of a file."""
    name = printable(path)
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"cannot read the annotations {name}: {error}".replace("\n", " ")) from error
    return [_object(row, f"{name}, object {k}") for k, row in enumerate(root.findall("object"))]


def _object(row, who):
    box = [_number(row, who, f"bndbox/{side}") for side in SIDES]
    return _text(row, who, "name"), box, _number(row, who, "difficult", "0") != 0


def _number(row, who, key, otherwise=None):
    text = _text(row, who, key, otherwise)
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{who} must have a number as {key}. Received: {text!r}.") from error


def _text(row, who, key, otherwise=None):
    text = (row.findtext(key) or "").strip() or otherwise
    if not text:
        raise ValueError(f"{who} must have a {key}. Received: none.")
    return text
