"""Folders of pictures with objects, in the layouts that sets are published in."""

import functools
import os

import numpy as np

from training.data import coco, dota, voc
from training.data.decode import open_file, size_of
from training.data.folder import HELD_OUT, held_out
from training.data.labelled import Labelled
from training.data.picture_source import PictureSource, named

READERS = (coco, voc, dota)
LAYOUTS = " or ".join(reader.LAYOUT for reader in READERS)
SPLITS = {"train": ("train",), "val": ("val",), "test": ("test", "val")}  # the first list that is there


def open_folder_of_objects(
    path, split, *, channels=3, classes=(), validation_split=HELD_OUT, filter_empty=False, min_size=0
):
    """A PictureSource whose targets are `Objects`.

    Args:
        path: of a folder in one of LAYOUTS, or of one with such a folder in it.
        split: train, val, or test: its test pictures, else its val pictures.
        classes: names in the order of their numbers; (): those of the file (COCO), or of all training files, sorted.
        validation_split: the share of training pictures that is held out where there are no others.
        filter_empty: leaves out pictures without an object to train on.
        min_size: leaves out pictures with a shorter side.
    Raises:
        FileNotFoundError: another layout, no such split, a file that is lacking.
        ValueError: annotations that are damaged or know other classes.
    """
    root = os.path.expanduser(path)
    labelled, divided = _labelled(root, split, tuple(classes), validation_split)
    files, stated = labelled.files, labelled.stated

    def read(index):
        picture = open_file(files[index], channels)
        return picture, stated(index).within(picture.size)

    contents = functools.partial(named, files, root)
    kinds = {"channels": channels, "classes": labelled.classes, "labelled": True, "contents": contents}
    kinds["header"] = lambda index: size_of(files[index])
    kinds["held_out"] = validation_split if divided else None
    source = PictureSource(f"folder:{path} ({split})", read, len(files), **kinds)
    if not (filter_empty or min_size):
        return source
    kept = [index for index in range(len(files)) if _wanted(files[index], stated(index), filter_empty, min_size)]
    if not kept:
        raise ValueError(
            f"some pictures must remain. Received: filter_empty={filter_empty!r}, min_size={min_size!r}, which leave "
            f"none of the {len(files)} of {source.name}"
        )
    return source.subset(kept)


def _labelled(root, split, classes, share):
    """(Labelled, whether the set is divided here)."""
    place, reader, lists = _layout(root)
    if tuple(lists) == ("train",):
        return _divided(reader.read(lists["train"], place, "train", classes), root, split, share), True
    known = next((name for name in SPLITS[split] if name in lists), None)
    if known is None:
        raise FileNotFoundError(f"{root} must have the split {' or '.join(SPLITS[split])}. Found: {', '.join(lists)}")
    return reader.read(lists[known], place, known, classes), False


def _layout(root):
    """(folder, reader, {split: where}): of the folder itself, else of the only one in it that has a layout."""
    inside = sorted(os.listdir(root)) if os.path.isdir(root) else []
    for places in ([root], [os.path.join(root, name) for name in inside]):
        found = [(place, reader, reader.splits(place)) for place in places for reader in READERS]
        found = [row for row in found if row[2]]
        if len(found) > 1:
            raise ValueError(f"{root} must hold one set. Received: {', '.join(sorted({row[0] for row in found}))}")
        if found:
            return found[0]
    raise FileNotFoundError(f"pictures with objects need a folder, laid out as {LAYOUTS}. Received: {root!r}")


def _divided(labelled, root, split, share):
    files = labelled.files
    if len(files) < 2:
        raise FileNotFoundError(
            f"one picture to train on and one held out are needed. Received: {len(files)} in {root}"
        )
    tested = held_out(files, root, share)
    chosen = [index for index, file in enumerate(files) if (file in tested) == (split != "train")]
    return Labelled(labelled.classes, [files[k] for k in chosen], lambda index: labelled.stated(chosen[index]))


def _wanted(file, stated, filter_empty, min_size):
    size = stated.size or size_of(file)
    return min(size) >= min_size and not (filter_empty and not np.any(stated.within(size).trained))
