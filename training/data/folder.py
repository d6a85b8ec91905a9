"""`folder:PATH`: pictures in folders, PATH/train/<class>/* and PATH/test/<class>/* or PATH/val/<class>/*."""

import os

from training.data.decode import SUFFIXES, open_file
from training.data.picture_source import PictureSource, fit_in_memory

LAYOUT = "PATH/train/<class>/* and PATH/test/<class>/* or PATH/val/<class>/*"
_TRAIN = ("train", "training")
_TEST = ("test", "val", "validation", "valid")  # the first one that is there


def open_folder(path, split, channels, keep=None):
    """The pictures of one split, by path; labels count the folders of train in alphabetical order."""
    root = os.path.expanduser(path)
    if not os.path.isdir(root):
        raise FileNotFoundError(f"folder:PATH needs a folder, laid out as {LAYOUT}. Received: {path!r}")
    if split == "unlabelled":
        files, classes, labels = _pictures(_first(root, _TRAIN) or root), (), None
        if not files:
            raise FileNotFoundError(_no_pictures(_first(root, _TRAIN) or root))
    else:
        files, classes, labels = _labelled(root, split)
    read = lambda index: open_file(files[index], channels)  # noqa: E731
    keep = fit_in_memory(read, len(files), channels) if keep is None else keep
    kinds = {"channels": channels, "classes": classes, "labels": labels, "keep": keep}
    return PictureSource(f"folder:{path} ({split})", read, len(files), **kinds)


def _labelled(root, split):
    train, test = _first(root, _TRAIN), _first(root, _TEST)
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
    for label, name in enumerate(classes):
        found = _pictures(os.path.join(folder, name))
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


def _pictures(folder):
    """Paths of all pictures below a folder, sorted; without hidden files, which some systems leave beside others."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(place, f) for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")]
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
