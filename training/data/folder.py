"""`folder:PATH`: pictures in folders, PATH/train/<class>/* and PATH/test/<class>/* or PATH/val/<class>/*.

Or PATH/<class>/* alone, which is split here.
"""

import functools
import hashlib
import os
import pathlib

from training.data.decode import SUFFIXES, open_file, printable, size_of
from training.data.picture_source import PictureSource, fit_in_memory, named

LAYOUT = "PATH/train/<class>/* and PATH/test/<class>/* or PATH/val/<class>/*"
HELD_OUT = 0.1  # of a folder without a test
_TRAIN = ("train", "training")
_TEST = ("test", "val", "validation", "valid")  # the first one that is there


def open_folder(path, split, channels, keep=None, validation_split=HELD_OUT):
    """The pictures of one split, by path; labels count the folders of train in alphabetical order.

    Args:
        validation_split: the share of a folder without train and test that is held out.
    """
    files, classes, labels = listed(path, split, validation_split)
    read = lambda index: open_file(files[index], channels)  # noqa: E731
    keep = fit_in_memory(read, len(files), channels) if keep is None else keep
    contents = functools.partial(named, files, os.path.expanduser(path))
    kinds = {"channels": channels, "classes": classes, "labels": labels, "keep": keep, "contents": contents}
    kinds["header"] = lambda index: size_of(files[index])
    if split in ("train", "test") and not is_split(path):
        kinds["held_out"] = validation_split
    return PictureSource(f"folder:{path} ({split})", read, len(files), **kinds)


def pictures_in(path, by_name=False):
    """The paths of all pictures at any depth of a folder, sorted.

    Args:
        by_name: of several links to a file each counts; else the first.
    """
    return _pictures(os.path.expanduser(path), by_name=by_name)


def listed(path, split, validation_split=HELD_OUT):
    """(paths, classes, labels or None) of the pictures of one split."""
    root = _root(path)
    if split != "unlabelled":
        files, classes, labels = _labelled(root, split, validation_split)
        return files, list(map(printable, classes)), labels  # names are drawn, and written into models and tables
    folder = _first(root, _TRAIN) or root
    if not (files := _pictures(folder)):
        raise FileNotFoundError(_no_pictures(folder))
    return files, (), None


def splits_of(path):
    """Those that a folder has; of a folder of pictures without any folder in it, `unlabelled`."""
    root = _root(path)
    there = tuple(split for split, names in (("train", _TRAIN), ("test", _TEST)) if _first(root, names))
    return there or (("train", "test") if _subfolders(root) else ("unlabelled",))


def _root(path):
    root = os.path.expanduser(path)
    if not os.path.isdir(root):
        raise FileNotFoundError(f"folder:PATH needs a folder, laid out as {LAYOUT}. Received: {path!r}")
    return root


def folders_of_classes(path):
    """Those whose folders are the classes: of a folder without splits itself."""
    root = _root(path)
    return [found for found in (_first(root, _TRAIN), _first(root, _TEST)) if found] or [root]


def is_split(path):
    """Whether the folder has a train or a test of its own."""
    root = os.path.expanduser(path)
    return bool(_first(root, _TRAIN) or _first(root, _TEST))


def in_split(name):
    """Whether a picture's path below its folder is that of a train or a test of its own."""
    return pathlib.PurePath(name).parts[0] in (*_TRAIN, *_TEST)


def _labelled(root, split, validation_split):
    train, test = _first(root, _TRAIN), _first(root, _TEST)
    if not train and not test and _subfolders(root):
        return _divided(root, split, validation_split)
    if split == "all":
        raise ValueError(f"all pictures together need a folder without train and test. Received: {root!r}")
    folder, names = (train, _TRAIN) if split == "train" else (test, _TEST)
    if folder is None:
        raise FileNotFoundError(
            f"labelled pictures need the layout {LAYOUT}; {root} has no folder {' or '.join(names)}. "
            f"Found there: {_found(root)}"
        )
    classes = _subfolders(train or test)  # a set that has only a test folder can still be evaluated
    strange = sorted(set(_subfolders(folder)) - set(classes))
    if strange:
        raise ValueError(
            f"the classes of {folder} must be among those of {train}. Received: {_some(strange)}; "
            f"train has {_some(classes)}"
        )
    files, labels = [], []
    for label, (name, found) in enumerate(zip(classes, _by_class(root, folder, classes), strict=True)):
        if not found and folder == train:
            raise FileNotFoundError(_no_pictures(os.path.join(folder, name)))
        files += found
        labels += [label] * len(found)
    if not classes:
        raise FileNotFoundError(
            f"labelled pictures need one folder a class: {LAYOUT}. Found in {folder}: {_found(folder)}"
        )
    if not files:
        raise FileNotFoundError(_no_pictures(folder))
    return files, classes, labels


def _first(root, names):
    return next((os.path.join(root, name) for name in names if os.path.isdir(os.path.join(root, name))), None)


def _subfolders(folder):
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not _is_of_the_system(entry.name))


def _divided(root, split, share):
    """One folder a class: each picture goes to one side by its name alone, and each class to both sides."""
    files, labels, classes = [], [], _subfolders(root)
    for label, (name, found) in enumerate(zip(classes, _by_class(root, root, classes), strict=True)):
        if len(found) < 2 and split != "all":
            raise FileNotFoundError(
                f"a class needs two pictures or more, one to train on and one held out. Received: {len(found)} in "
                f"{printable(os.path.join(root, name))}; other layout: {LAYOUT}"
            )
        tested = held_out(found, root, share)
        chosen = found if split == "all" else [file for file in found if (file in tested) == (split == "test")]
        files += chosen
        labels += [label] * len(chosen)
    if not files:
        raise FileNotFoundError(_no_pictures(root))
    return files, classes, labels


def held_out(files, root, share):
    """Those of two files or more that are not trained on, a set: by their names alone, and some on each side."""
    ranked = sorted((rank(os.path.relpath(file, root)), file) for file in files)
    count = sum(rank < share for rank, _ in ranked)
    return {file for _, file in ranked[: min(max(count, 1), len(ranked) - 1)]}


def rank(name):
    """A number in [0, 1) of a file's name."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64


def _by_class(root, folder, classes):
    """The pictures of each class of a split; none is of two, and no linked folder brings those of another split."""
    places, seen = _real(*(os.path.join(folder, name) for name in classes)), set()
    splits = _real(*(os.path.join(root, name) for name in (*_TRAIN, *_TEST))) - _real(folder)
    kinds = {"around": _real(root, folder), "splits": splits, "seen": seen}
    return [_pictures(os.path.join(folder, name), classes=places, **kinds) for name in classes]


def _real(*folders):
    return {os.path.realpath(folder) for folder in folders}


def _lineage(path):
    """A real path and all folders it lies in."""
    return {path, *map(str, pathlib.PurePath(path).parents)}


def _is_of_the_system(name):
    """Whether a folder is hidden, or of a disk's own."""
    return name.startswith(".") or name == "lost+found"


def _raise(error):
    if not isinstance(error, FileNotFoundError):  # a class may lack a folder in a split
        raise error


def _pictures(folder, around=(), classes=(), splits=(), seen=None, by_name=False):
    """Paths of all pictures below a folder, sorted; without hidden files, which some systems leave beside others.

    Links are followed, but what they lead to is visited once.

    Args:
        around: real paths of folders; a link to one of them, or to one that it lies in, is not followed.
        classes, splits: real paths of folders whose folders are theirs; those of `classes` keep their files, too.
        seen: real paths of pictures that are another's; those found are added.
        by_name: as of `pictures_in`.
    Raises:
        OSError: a folder below cannot be read.
    """
    own = _lineage(os.path.realpath(folder))
    above = own.union(*map(_lineage, around))
    classes = set(classes) - own
    others = classes.union(splits) - own
    visited, seen, found = set(), set() if seen is None else seen, []

    def followed(place):
        real = os.path.realpath(place)
        return real not in visited and real not in above and not (os.path.islink(place) and others & _lineage(real))

    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        visited.add(os.path.realpath(place))
        folders[:] = [name for name in folders if not _is_of_the_system(name) and followed(os.path.join(place, name))]
        for name in files:
            file = os.path.join(place, name)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".") and os.path.isfile(file):
                real = os.path.realpath(file)
                if (by_name or real not in seen) and not (os.path.islink(file) and classes & _lineage(real)):
                    found.append(file)
                    seen.add(real)
    return sorted(found)


def _no_pictures(folder):
    return f"no picture ({' '.join(SUFFIXES)}) in {folder} or below it. Found there: {_found(folder)}"


def _found(folder):
    """What lies in a folder, in a few words for an error."""
    if not os.path.isdir(folder):
        return "no such folder"
    folders = _subfolders(folder)
    files = sorted(name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name)))
    both = (("folders", folders), ("files", files))
    said = [f"{len(names)} {kind} ({_some(names)})" for kind, names in both if names]
    return " and ".join(said) or "nothing"


def _some(names):
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
