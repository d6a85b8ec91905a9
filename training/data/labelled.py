"""What a reader of a layout returns, and what all of them need."""

import collections
import os

from training.data.decode import printable

# classes: their names; files: the paths of the pictures; stated: (index) -> what is said about a picture's objects
Labelled = collections.namedtuple("Labelled", "classes files stated")


def subfolder(place, name):
    """The path of a folder in `place` by its name in any case, or None."""
    names = sorted(os.listdir(place)) if os.path.isdir(place) else []
    paths = (os.path.join(place, found) for found in names if found.lower() == name.lower())
    return next((path for path in paths if os.path.isdir(path)), None)


def numbered(label, classes, who):
    """The number of a class; raises a ValueError that says who has it."""
    if label not in classes:
        raise ValueError(f"{who}: classes must be among {', '.join(map(str, classes))}. Received: {label!r}.")
    return classes.index(label)


def present(files, names):
    """Raises for the first path that is no file; `names` say whose they are."""
    lacking = [k for k, file in enumerate(files) if not os.path.isfile(file)]
    if lacking:
        more = f"; and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise FileNotFoundError(f"{names[lacking[0]]}: there is no file {printable(files[lacking[0]])}{more}")
