"""Opening a set of pictures by its `--data` text."""

import functools

from training.data import shapes
from training.data.decode import check_channels, to_channels
from training.data.folder import open_folder
from training.data.label_maps import IGNORE, open_labelled_maps
from training.data.picture_source import PictureSource
from training.data.prepared import open_prepared
from training.data.records import open_records

SPLITS = ("train", "unlabelled", "test")
SPECS = "shapes, shapes:COUNT, folder:PATH, records:PATH or tfds:NAME"  # what `--data` takes


def open_source(spec, split, *, channels=3, keep=None, validation_split=0.1, download=False):
    """A source of pictures.

    Args:
        spec: `shapes` (drawn, nothing to download; `shapes:COUNT` draws that many for each split), `folder:PATH`
            (PATH/train/<class>/*, PATH/test or val/<class>/*; for unlabelled pictures any folder of pictures),
            `records:PATH` (a folder that `training.pack` has packed) or `tfds:NAME` (of tensorflow-datasets).
        split: `train` (labelled), `unlabelled` (whatever can be pre-trained on) or `test` (labelled, held out); of a
            folder without train and test also `all` (labelled).
        channels: 3 for RGB, 1 for grey; pictures of the other kind are converted.
        keep: keep decoded pictures in memory; None: where all of them fit.
        validation_split: the share of a folder without train and test, one folder a class, that is held out.
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
        return open_folder(rest, split, channels, keep, validation_split)
    if kind == "records" and rest:
        return open_records(rest, split, channels, keep)
    if kind == "tfds" and rest:
        return open_prepared(rest, split, channels, keep, download)
    raise ValueError(f"data must be {SPECS}. Received: {spec!r}")


def open_maps(spec, split, *, channels=3, classes=0, ignored=(IGNORE,), validation_split=0.1):
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
