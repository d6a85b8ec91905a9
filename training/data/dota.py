"""DOTA's text files, as GrokSAR has SAR-AIRcraft-1.0: a file a picture, an object a line."""

import os

import numpy as np

from training.data.decode import printable
from training.data.folder import pictures_in
from training.data.labelled import Labelled, numbered, present
from training.data.objects import Stated

LAYOUT = "PATH/{train,val,test}/{images,annfiles or labels}"
LABELS = ("annfiles", "labels", "labelTxt")
HEADERS = ("imagesource", "gsd")  # of DOTA's own files
DIFFICULT = 1  # 2 marks what the border of a tile cuts


def splits(place):
    """{split: its folder} of a folder; {} where it has another layout."""
    found = {split: os.path.join(place, split) for split in ("train", "val", "test")}
    return {split: folder for split, folder in found.items() if _labels(folder)}


def _labels(folder):
    """The folder of text files in a split's folder, or None."""
    for name in LABELS:
        path = os.path.join(folder, name)
        if os.path.isdir(path) and any(file.endswith(".txt") for file in os.listdir(path)):
            return path
    return None


def read(folder, place, split, classes):
    """The `Labelled` pictures of a folder; a box is the smallest upright one around its four corners.

    Args:
        classes: their names; (): those of the training files, sorted.
    Raises:
        ValueError: a line that is none, an unknown class.
        FileNotFoundError: a picture without a text file, no picture.
    """
    files, labels = _pairs(folder)
    if not classes:
        train = splits(place).get("train", folder)
        classes = sorted(
            {row[0] for file in (labels if train == folder else _pairs(train)[1]) for row in _objects(file)}
        )
    classes = tuple(classes)
    return Labelled(classes, files, lambda index: _stated(labels[index], classes))


def _pairs(folder):
    files = pictures_in(os.path.join(folder, "images"))
    if not files:
        raise FileNotFoundError(f"there is no picture in {os.path.join(folder, 'images')}")
    stems = [os.path.splitext(os.path.basename(file))[0] for file in files]
    labels = [os.path.join(_labels(folder), f"{stem}.txt") for stem in stems]
    present(labels, [printable(file) for file in files])
    return files, labels


def _stated(path, classes):
    name, rows = printable(path), _objects(path)
    corners = np.array([row[1] for row in rows]).reshape(-1, 4, 2)
    return Stated(
        name=name,
        ids=tuple(range(len(rows))),
        boxes=np.concatenate([corners.min(1), corners.max(1)], axis=1),
        classes=np.array([numbered(row[0], classes, f"{name}, object {k}") for k, row in enumerate(rows)]),
        difficult=np.array([row[2] == DIFFICULT for row in rows], bool),
    )


def _objects(path):
    """[(class, eight coordinates, difficulty)] of a file."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.split() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the annotations {printable(path)}: {error}") from error
    rows = [(k, words) for k, words in enumerate(lines, 1) if words and not words[0].startswith(HEADERS)]
    return [_object(words, f"{printable(path)}, line {k}") for k, words in rows]


def _object(words, who):
    try:
        *numbers, label, difficulty = words if len(words) == 10 else [*words, "0"]
        corners = [float(number) for number in numbers]
        if len(corners) != 8:
            raise ValueError(f"{len(words)} words")
        return label, corners, int(difficulty)
    except ValueError as error:
        raise ValueError(f"{who} must be 8 coordinates, a class and a difficulty. Received: {error}.") from error
