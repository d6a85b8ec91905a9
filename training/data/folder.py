"""`folder:PATH`: pictures in folders, PATH/train/<class>/* and PATH/test/<class>/* or PATH/val/<class>/*.

Or PATH/<class>/* alone, which is split here.
"""

import hashlib
import os

from training.data.decode import SUFFIXES, open_file, printable
from training.data.picture_source import PictureSource, fit_in_memory

LAYOUT = "PATH/train/<class>/* and PATH/test/<class>/* or PATH/val/<class>/*"
_TRAIN = ("train", "training")
_TEST = ("test", "val", "validation", "valid")  # the first one that is there


def open_folder(path, split, channels, keep=None, validation_split=0.1):
    """The pictures of one split, by path; labels count the folders of train in alphabetical order.

    Args:
        validation_split: the share of a folder without train and test that is held out.
    """
    files, classes, labels = listed(path, split, validation_split)
    read = lambda index: open_file(files[index], channels)  # noqa: E731
    keep = fit_in_memory(read, len(files), channels) if keep is None else keep
    kinds = {"channels": channels, "classes": classes, "labels": labels, "keep": keep}
    return PictureSource(f"folder:{path} ({split})", read, len(files), **kinds)


def pictures_in(path):
    """The paths of all pictures at any depth of a folder, sorted."""
    return _pictures(os.path.expanduser(path))


def listed(path, split, validation_split=0.1):
    """(paths, classes, labels or None) of the pictures of one split."""
    root = _root(path)
    if split != "unlabelled":
        return _labelled(root, split, validation_split)
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


def is_split(path):
    """Whether the folder has a train or a test of its own."""
    root = os.path.expanduser(path)
    return bool(_first(root, _TRAIN) or _first(root, _TEST))


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
    files, labels, visited = [], [], _real(folder, *(os.path.join(folder, name) for name in classes))
    for label, name in enumerate(classes):
        found = _pictures(os.path.join(folder, name), visited)
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
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _divided(root, split, share):
    """One folder a class: each picture goes to one side by its name alone, and each class to both sides."""
    files, labels, classes = [], [], _subfolders(root)
    visited = _real(root, *(os.path.join(root, name) for name in classes))
    for label, name in enumerate(classes):
        found = _pictures(os.path.join(root, name), visited)
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


def _real(*folders):
    return {os.path.realpath(folder) for folder in folders}


def _pictures(folder, visited=()):
    """Paths of all pictures below a folder, sorted; without hidden files, which some systems leave beside others.

    Links are followed, but what they lead to is visited once, and no folder of `visited`: another class, the whole.
    """
    visited, seen, found = set(visited) - _real(folder), set(), []
    for place, folders, files in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(place))
        inside = (name for name in folders if not name.startswith("."))
        folders[:] = [name for name in inside if os.path.realpath(os.path.join(place, name)) not in visited]
        for name in files:
            file = os.path.join(place, name)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".") and os.path.isfile(file):
                real = os.path.realpath(file)
                found += [file] * (real not in seen)
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
