"""Opening a set of pictures by its `--data` text."""

import functools

import numpy as np

from training.data import shapes
from training.data.decode import check_channels, to_channels
from training.data.folder import HELD_OUT, open_folder
from training.data.label_maps import IGNORE, open_labelled_maps
from training.data.object_folders import SPLITS as OBJECT_SPLITS
from training.data.object_folders import open_folder_of_objects
from training.data.objects import Objects, boxes_of
from training.data.picture_source import PictureSource
from training.data.prepared import open_prepared
from training.data.records import open_records

SPLITS = ("train", "unlabelled", "test")
SPECS = "shapes, shapes:COUNT, folder:PATH, records:PATH or tfds:NAME"  # what `--data` takes


def open_source(spec, split, *, channels=3, keep=None, validation_split=None, download=False):
    """A source of pictures.

    Args:
        spec: `shapes` (drawn, nothing to download; `shapes:COUNT` draws that many for each split), `folder:PATH`
            (PATH/train/<class>/*, PATH/test or val/<class>/*; for unlabelled pictures any folder of pictures),
            `records:PATH` (a folder that `training.pack` has packed) or `tfds:NAME` (of tensorflow-datasets).
        split: `train` (labelled), `unlabelled` (whatever can be pre-trained on) or `test` (labelled, held out); of a
            folder without train and test also `all` (labelled).
        channels: 3 for RGB, 1 for grey; pictures of the other kind are converted.
        keep: keep decoded pictures in memory; None: where all of them fit.
        validation_split: the share of a folder without train and test, one folder a class, that is held out; None: 0.1.
            Where such a folder was packed, that of the packing: None, or the same.
        download: download and prepare a `tfds` set that is not prepared.
    Returns:
        A PictureSource, or a StreamSource for `tfds` sets that do not fit in memory. Both have name, count, classes,
        channels.
    """
    check_channels(channels)
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split must be one of {', '.join(SPLITS)}. Received: {split!r}")
    kind, _, rest = spec.partition(":")
    if split == "all" and kind != "folder":
        raise ValueError(f"all pictures together need a folder without train and test. Received: {spec!r}")
    if kind == "shapes":
        return _open_shapes(rest, split, channels)
    if kind == "folder" and rest:
        return open_folder(rest, split, channels, keep, HELD_OUT if validation_split is None else validation_split)
    if kind == "records" and rest:
        return open_records(rest, split, channels, keep, validation_split)
    if kind == "tfds" and rest:
        return open_prepared(rest, split, channels, keep, download)
    raise ValueError(f"data must be {SPECS}. Received: {spec!r}")


def open_maps(spec, split, *, channels=3, classes=0, ignored=(IGNORE,), validation_split=HELD_OUT):
    """A PictureSource whose targets are label maps.

    Args:
        spec: `shapes`, whose last class is the ground, or `folder:PATH` of photos and label maps.
        split, channels: as of `open_source`, train or test.
        classes, ignored, validation_split: as of `open_labelled_maps`.
    """
    check_channels(channels)
    kind, _, rest = spec.partition(":")
    if kind == "folder" and rest:
        options = {"classes": classes, "ignored": ignored, "validation_split": validation_split}
        return open_labelled_maps(rest, split, channels=channels, **options)
    if kind == "shapes":
        return _open_shapes_with_maps(rest, split, channels)
    raise ValueError(f"pictures with label maps must be shapes, shapes:COUNT or folder:PATH. Received: {spec!r}")


class _DrawnMap:
    """The label map of a drawn picture, with the interface of a `LabelMap`."""

    def __init__(self, labels):
        self._labels = labels

    def array(self, size):
        return self._labels


def _open_shapes_with_maps(count, split, channels):
    images, maps = shapes.shapes_with_maps(_count_of_shapes(count, split), split)
    images = to_channels(images, channels)
    read = lambda index: (images[index], _DrawnMap(maps[index]))  # noqa: E731
    kinds = {"channels": channels, "classes": (*shapes.CLASSES, "ground"), "labelled": True}
    return PictureSource(f"shapes ({split})", read, len(images), **kinds)


def open_objects(data, split, *, channels=3, classes=(), **options):
    """A PictureSource whose targets are `Objects`.

    Args:
        data: `shapes` with up to three shapes a picture, or `folder:PATH` in a published layout.
        split: train, val or test.
        channels: as of `open_source`.
        classes: names in the order of their numbers; (): those of the set.
        options: validation_split, filter_empty, min_size, as of `open_folder_of_objects`. Drawn pictures have a test
            split, none without objects and one size.
    """
    check_channels(channels)
    if split not in OBJECT_SPLITS:
        raise ValueError(f"split must be one of {', '.join(OBJECT_SPLITS)}. Received: {split!r}")
    kind, _, rest = data.partition(":")
    if kind == "folder" and rest:
        return open_folder_of_objects(rest, split, channels=channels, classes=classes, **options)
    if kind == "shapes":
        return _open_shapes_with_objects(rest, split, channels, tuple(classes) or shapes.CLASSES)
    raise ValueError(f"pictures with objects must be shapes, shapes:COUNT or folder:PATH. Received: {data!r}")


def _open_shapes_with_objects(count, split, channels, classes):
    if set(shapes.CLASSES) - set(classes):
        raise ValueError(f"classes must have those of shapes: {', '.join(shapes.CLASSES)}. Received: {classes!r}")
    drawn = "train" if split == "train" else "test"
    images, labels, masks = shapes.shapes_with_objects(_count_of_shapes(count, drawn), drawn)
    images, numbers = to_channels(images, channels), np.array([classes.index(name) for name in shapes.CLASSES], "int32")

    def read(index):
        return images[index], _objects_of(masks[index], numbers[labels[index]], f"shapes ({drawn}), picture {index}")

    return PictureSource(f"shapes ({split})", read, len(images), channels=channels, classes=classes, labelled=True)


def _objects_of(masks, labels, name):
    """The Objects of drawn masks (n, H, W), by what is seen of each; those that are hidden are left out."""
    seen = masks.any((1, 2))
    masks, no = masks[seen], np.zeros(int(seen.sum()), bool)
    boxes = boxes_of(masks)
    return Objects(boxes, labels[seen], no, no, masks.sum((1, 2)).astype("float32"), lambda size: masks, name)


def _count_of_shapes(count, split):
    if count and not (count.isdecimal() and int(count) > 0):
        raise ValueError(f"shapes:COUNT needs a positive number of pictures. Received: {count!r}")
    return int(count or shapes.COUNTS[split])


def _open_shapes(count, split, channels):
    images, labels = _drawn(_count_of_shapes(count, split), split)
    images = to_channels(images, channels)
    labelled = split != "unlabelled"
    return PictureSource(
        f"shapes ({split})",
        images.__getitem__,
        len(images),
        channels=channels,
        classes=shapes.CLASSES if labelled else (),
        labels=labels if labelled else None,
        keep=False,  # they are in memory as it is
    )


@functools.lru_cache(maxsize=8)
def _drawn(count, split):
    images, labels = shapes.shapes(count, split)
    images.flags.writeable = labels.flags.writeable = False  # shared by everyone who opens them
    return images, labels
