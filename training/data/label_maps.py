"""Label maps: the class of each pixel of a photo, in a picture file beside it, and the folders that hold both."""

import functools
import os

import numpy as np
from PIL import Image

from training.data.checking import each
from training.data.decode import lines_of, open_file, printable, size_of
from training.data.folder import HELD_OUT, held_out, pictures_in
from training.data.picture_source import PictureSource, named

IGNORE = 255
LAYOUT = "PATH/train/{images,labels} and PATH/val/{images,labels}, or PATH/{images,labels}"
ADE20K = "PATH/{images,annotations}/{training,validation}"  # as ADE20K is published
SPLIT_NAMES = {"train": ("train", "training"), "test": ("test", "val", "validation", "valid")}
CLASSES_FILE = "classes.txt"  # a name a line; those beyond the classes that are trained may follow
ADE20K_FILE, ADE20K_CLASSES = "objectInfo150.txt", 150
ADE20K_FILES = (ADE20K_FILE, "sceneCategories.txt")  # either tells it from other sets of the same layout


class LabelMap:
    """The label map of a photo, read when it is asked for.

    Args:
        path: of a grey or indexed picture, whose values are the classes.
        photo: the photo's path, for errors.
        classes: how many count; of others only those of `ignored`.
        ignored: values of the file that do not count.
        first: the value of class 0; 1 where 0 does not count.
    """

    def __init__(self, path, photo, classes, ignored=(IGNORE,), first=0):
        self.path, self.photo = path, photo
        self._classes, self._ignored, self._first = classes, ignored, first

    def array(self, size):
        """uint8 (H, W) of a photo of this size; IGNORE where pixels do not count.

        Raises:
            ValueError: no label picture, another size, several channels, a class that is none.
        """
        values = label_values(self.path)
        name = printable(self.path)
        if values.shape != tuple(size):
            raise ValueError(
                f"{name} must have the size of its photo {printable(self.photo)}, {tuple(size)}. "
                f"Received: {values.shape}."
            )
        ignored = np.isin(values, self._ignored)
        labels = values.astype("int64") - self._first
        bad = ~ignored & ((labels < 0) | (labels >= self._classes))
        if bad.any():
            rule = f"labels must be {self._first}..{self._first + self._classes - 1}, or ignored: {self._ignored}"
            raise ValueError(f"{rule}. Received: {int(values[bad][0])} in {name}.")
        return np.where(ignored, IGNORE, labels).astype("uint8")


def label_values(path):
    """(H, W) of a label picture as it is stored; raises a ValueError that names the file."""
    name = printable(path)
    try:
        with Image.open(path) as image:
            mode, bands, lossy = image.mode, len(image.getbands()), image.format == "JPEG"
            values = np.asarray(image)
    except Exception as error:  # whatever the decoder met, as of `Encoded`
        raise ValueError(f"cannot read the label map {name}: {error}".replace("\n", " ")) from error
    if lossy:
        raise ValueError(f"a label map keeps its values, as PNG does. Received: {name}, a JPEG, which changes them.")
    if bands != 1:
        raise ValueError(f"a label map has one channel. Received: {name}, of mode {mode}.")
    return values


def open_labelled_maps(path, split, *, channels=3, classes=0, ignored=(IGNORE,), validation_split=HELD_OUT):
    """A PictureSource whose targets are LabelMaps, by the names of files: `a.jpg` has `a.png`.

    Args:
        split: train or test.
        classes: how many; 0: those of classes.txt, else as many as the label maps have.
        ignored: values of the files that do not count.
        validation_split: the share of a folder without train and val that is held out.
    Raises:
        FileNotFoundError: another layout, a photo without labels, no photo.
    """
    root = os.path.expanduser(path)
    photos, published, divided = _pairs(root, split, validation_split)
    if published:
        names = _names(os.path.join(root, ADE20K_FILE), ADE20K_CLASSES) or tuple(map(str, range(ADE20K_CLASSES)))
        ignored, first = (0, *ignored), 1
    else:
        names, first = _classes(root, photos, classes, ignored), 0
    if len(names) > IGNORE:
        raise ValueError(f"label maps can have {IGNORE} classes at most. Received: {len(names)}.")
    maps = [LabelMap(labels, photo, len(names), tuple(ignored), first) for photo, labels in photos]

    def read(index):
        return open_file(photos[index][0], channels), maps[index]

    contents = functools.partial(named, [photo for photo, _ in photos], root)
    kinds = {"channels": channels, "classes": names, "labelled": True, "contents": contents}
    kinds["header"] = lambda index: size_of(photos[index][0])
    kinds["held_out"] = validation_split if divided else None
    return PictureSource(f"folder:{path} ({split})", read, len(photos), **kinds)


def _pairs(root, split, share):
    """([(photo, label map)], whether it is ADE20K's layout, whether it is divided here)."""
    if not os.path.isdir(root):
        raise FileNotFoundError(f"folder:PATH needs a folder, laid out as {LAYOUT}. Received: {root!r}")
    for names in SPLIT_NAMES[split]:
        for layout in ((names, "images"), ("images", names)):
            folder = os.path.join(root, *layout)
            if os.path.isdir(folder):
                annotated = layout[0] == "images" and os.path.isdir(os.path.join(root, "annotations"))
                beside = [part.replace("images", "annotations" if annotated else "labels") for part in layout]
                published = annotated and any(os.path.isfile(os.path.join(root, name)) for name in ADE20K_FILES)
                return _paired(folder, os.path.join(root, *beside)), published, False
    folder = os.path.join(root, "images")
    if not os.path.isdir(folder) or any(os.path.isdir(os.path.join(root, name)) for name in SPLIT_NAMES["train"]):
        raise FileNotFoundError(f"label maps need the layout {LAYOUT}, or {ADE20K}. Received: {root!r}")
    pairs = _paired(folder, os.path.join(root, "labels"))
    if len(pairs) < 2:
        raise FileNotFoundError(
            f"one photo to train on and one held out are needed. Received: {len(pairs)} in {folder}"
        )
    tested = held_out([photo for photo, _ in pairs], folder, share)
    return [pair for pair in pairs if (pair[0] in tested) == (split == "test")], False, True


def _paired(photos, labels):
    """[(photo, label map)] of two folders, at any depth."""
    found = pictures_in(photos)
    if not found:
        raise FileNotFoundError(f"there is no photo in {photos}")
    by_stem = _by_stem(labels, pictures_in(labels, by_name=True))  # photos may share a map
    pairs = [(photo, by_stem.get(stem)) for stem, photo in _by_stem(photos, found).items()]
    lacking = [printable(photo) for photo, map_ in pairs if map_ is None]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise FileNotFoundError(f"every photo needs a label map of its name in {labels}. None for: {lacking[0]}{more}")
    return pairs


def _by_stem(folder, files):
    """{path in the folder, without its suffix: file}"""
    found = {}
    for file in files:
        stem = os.path.splitext(os.path.relpath(file, folder))[0]
        if stem in found:
            both = f"{printable(found[stem])} and {printable(file)}"
            raise ValueError(f"names without their suffixes must differ: a photo has a map. Received: {both}.")
        found[stem] = file
    return found


def _names(path, count=None):
    """The names of a file with one a line; of ADE20K's table the last column; None without a file."""
    if not os.path.isfile(path):
        return None
    lines = lines_of(path)
    if count is None:
        return tuple(lines)
    return tuple(line.split("\t")[-1].split(",")[0] for line in lines[-count:])


def _classes(root, photos, count, ignored):
    """The names of the classes: of the file, cut to `count`; else numbers."""
    listed = _names(os.path.join(root, CLASSES_FILE))
    if listed:
        stop = len(listed)
        while stop and stop - 1 in ignored:  # names behind the classes; one between them keeps its number
            stop -= 1
        count = count or stop
        if count > len(listed):
            raise ValueError(f"classes must be at most {len(listed)}, those of {CLASSES_FILE}. Received: {count}.")
        return listed[:count]
    if not count:
        values = np.unique(np.concatenate([np.unique(label_values(labels)) for _, labels in photos]))
        count = int(max((value for value in values if value not in ignored), default=-1)) + 1
        if count < 2:  # with one the loss would be 0 whatever the network says
            hint = "A mask of 0 and 255 needs 0 and 1 in their place where 255 does not count."
            rule = "label maps must hold two classes at least"
            raise ValueError(f"{rule}. Received: {count} beside ignored={ignored}. {hint}")
    return tuple(map(str, range(count)))


def require_maps(source, say):
    """Reads the label map of every photo of a source, in parallel; the numbers of the classes in them, a set.

    Raises:
        ValueError: names all that are bad, and photos that cannot be opened.
    """
    rule = f"every photo of {source.name} and its label map must be sound"
    return set().union(*each(source, lambda index: _checked(*source.opened(index)), say, rule, "label maps"))


def _checked(picture, labels):
    return set(np.unique(labels.array(picture.size)).tolist()) - {IGNORE}
