"""What a pipeline reads from: pictures by their number, or a stream of records."""

import itertools
import json
import os
import threading
import zlib

import numpy as np
from absl import logging

from training.data.decode import Encoded, Pixels, UnreadableImage
from training.data.purposes import SUBSET, WINDOW, WINDOW_BORDER, generator

MEMORY_LIMIT = 1_000_000_000  # bytes of decoded pictures that a source may keep
SHUFFLE_WINDOW = 4096  # records of a stream, still encoded
_MEASURED = 64  # pictures whose size decides that


class PictureSource:
    """Pictures that can be read in any order.

    Args:
        read: function of an index, returning uint8 (H, W, channels) or an `Encoded`, or raising UnreadableImage; where
            a label is read with its picture, (picture, label or None).
        classes: names in the order of their labels; () for pictures without labels.
        labels: int32 (count,), or a function that returns them, or None.
        labelled: whether pictures have labels, also where nobody has them all (labels None).
        keep: decode every picture once and keep it, for sets that `fit_in_memory`.
        header: function of an index, which raises UnreadableImage for a picture whose header cannot be read; None:
            `read` does.
        contents: function without arguments, returning a number of which pictures these are, as `named` of their files;
            None: whoever has as many of this name has the same.
        held_out: the share of a set that was divided by the names of its files for want of a part to test on; else
            None.
    """

    def __init__(
        self,
        name,
        read,
        count,
        *,
        channels,
        classes=(),
        labels=None,
        labelled=None,
        keep=False,
        header=None,
        contents=None,
        held_out=None,
    ):
        self.name, self.count, self.channels, self.classes = name, int(count), channels, tuple(classes)
        self.held_out = held_out
        self.labelled = labels is not None if labelled is None else labelled
        self._labels = labels if labels is None or callable(labels) else np.asarray(labels, "int32")
        self._read, self._keep, self._header, self._contents = read, keep, header, contents
        self._kept = {}  # index: (`Pixels`, label)
        self._unreadable = {}  # index: reason
        self._lock = threading.Lock()

    @property
    def labels(self):
        """int32 (count,), or None: there are none, or they are read with the pictures alone."""
        return np.asarray(self._labels(), "int32") if callable(self._labels) else self._labels

    @property
    def fingerprint(self):
        """A number of the pictures, their order, classes and labels; nothing is decoded for it."""
        labels = self.labels
        return _fingerprint(self, b"" if labels is None else np.ascontiguousarray(labels))

    def picture(self, index):
        """uint8 (H, W, channels); raises UnreadableImage. Safe to call from many threads."""
        return self.opened(index)[0].array

    def opened(self, index):
        """(`Pixels` or `Encoded`, label or None): what is not kept is decoded only as far as its window asks for."""
        if index in self._kept:
            return self._kept[index]
        picture = self._read(index)
        if isinstance(picture, tuple):
            picture, label = picture
        else:
            label = None if self._labels is None else self._labels[index]
        if self._keep and isinstance(picture, Encoded):
            picture = picture.array
        if isinstance(picture, np.ndarray):
            picture = Pixels(picture)
        return self._kept.setdefault(index, (picture, label)) if self._keep else (picture, label)

    def check(self, index):
        """Raises UnreadableImage for a picture that cannot be opened; it is decoded where it is kept."""
        (self.opened if self._keep or self._header is None else self._header)(index)

    def readable(self, index, prepare):
        """What `prepare` makes of (picture, label) number `index`, a dict, and `substituted`.

        In place of a picture that cannot be read comes the next one that can; it is warned about once a process.
        """
        for offset in range(self.count):
            number = (index + offset) % self.count
            if number in self._unreadable:
                continue
            try:
                return {**prepare(*self.opened(number)), "substituted": np.bool_(offset > 0)}
            except UnreadableImage as error:
                self._leave_out(number, str(error))
        reason = next(iter(self._unreadable.values()))
        raise UnreadableImage(f"none of the {self.count} images of {self.name} can be read; the first one: {reason}")

    def subset(self, indices):
        """A source of the pictures with these indices, in this order."""
        indices = np.asarray(indices)
        labels = None if self._labels is None else self.labels[indices]
        read = lambda index: self.opened(int(indices[index]))  # noqa: E731
        kinds = {"channels": self.channels, "classes": self.classes, "labelled": self.labelled}
        kinds["header"] = lambda index: self.check(int(indices[index]))
        contents = lambda: zlib.crc32(indices.astype("int64").tobytes(), self.fingerprint)  # noqa: E731
        return PictureSource(self.name, read, len(indices), labels=labels, contents=contents, **kinds)

    def __getstate__(self):
        """For worker processes, which keep pictures of their own."""
        return {**vars(self), "_lock": None, "_kept": {}}

    def __setstate__(self, state):
        vars(self).update(state, _lock=threading.Lock())

    def _leave_out(self, index, reason):
        with self._lock:
            if index in self._unreadable:
                return
            self._unreadable[index] = reason
        logging.warning("%s; training takes the next readable image instead", reason)


def _fingerprint(source, more=b""):
    contents = source._contents() if source._contents else 0
    facts = [source.count, source.channels, source.classes, contents]
    return zlib.crc32(more, zlib.crc32(json.dumps(facts).encode()))


def named(files, root):
    """A number of files by their names and order, wherever their folder lies."""
    number, start = 0, len(os.fsencode(root))
    for file in files:
        number = zlib.crc32(os.fsencode(file)[start:] + b"\0", number)
    return number


def fit_in_memory(read, count, channels):
    """Whether `count` pictures stay below MEMORY_LIMIT when decoded, by the sizes of some that are spread over them.

    That is known before the first one is read, so that it does not depend on where a run resumes.
    """
    total = measured = 0
    for index in np.unique(np.linspace(0, count - 1, _MEASURED).astype(int)):
        try:
            height, width = read(int(index)).size
        except UnreadableImage:
            continue  # whoever trains on it or evaluates it is told
        total, measured = total + height * width * channels, measured + 1
    return total * count <= MEMORY_LIMIT * measured


class StreamSource:
    """Records that can only be read one after the other, such as large TFRecord sets.

    Args:
        records: function of a number n, returning an iterator of (encoded picture, label) from the n-th record on.
        contents: as of `PictureSource`.
    """

    held_out = None  # whoever has a stream has a part to test on

    def __init__(self, name, records, count, *, channels, classes=(), labelled=True, contents=None):
        self.name, self.records, self.count, self.channels = name, records, int(count), channels
        self.classes, self.labelled, self._contents = tuple(classes), labelled, contents

    @property
    def fingerprint(self):
        """As of `PictureSource`."""
        return _fingerprint(self)

    def opened(self, number, encoded, label):
        """(`Encoded`, label or None) of a record."""
        picture = Encoded(encoded, self.channels, f"number {number} of {self.name}")
        return picture, (np.int32(label) if self.labelled else None)

    def in_order(self):
        """(number, encoded picture, label) of every record."""
        return ((n, *record) for n, record in enumerate(self.records(0)))

    def shuffled(self, seed, first):
        """(sample, number, encoded picture, label) from sample `first` on, without an end.

        Every epoch is shuffled in windows, whose borders differ from epoch to epoch; before the first one that is asked
        for, records are skipped unread.
        """
        for epoch in itertools.count(first // self.count):
            before = epoch * self.count
            windows = self._windows(seed, epoch, max(0, first - before))
            yield from ((before + n, n, *record) for n, record in windows)

    def _windows(self, seed, epoch, first):
        """(position, record) from position `first` on."""
        border = int(generator(seed, WINDOW_BORDER, epoch).integers(1, SHUFFLE_WINDOW + 1))
        starts = [0, *range(border, self.count, SHUFFLE_WINDOW), self.count]
        windows = [(start, stop) for start, stop in itertools.pairwise(starts) if stop > first]
        records = self.records(windows[0][0])
        for start, stop in windows:
            window = list(itertools.islice(records, stop - start))
            order = generator(seed, WINDOW, epoch, start).permutation(len(window))
            yield from ((start + n, window[k]) for n, k in enumerate(order) if start + n >= first)


def take_per_class(source, n, seed):
    """A source of n labelled pictures of each class, drawn by `seed`: the same ones for the same seed.

    Raises:
        ValueError: without labels, or when a class has fewer than n pictures.
    """
    if isinstance(source, StreamSource):
        raise ValueError(f"a number per class needs pictures in any order. Received: {source.name}, which is a stream")
    if not source.labelled:
        raise ValueError(f"a number per class needs labels. Received: {source.name}. Open its train split")
    if source.labels is None:
        raise ValueError(f"a number per class needs all labels. Received: {source.name}, which has them in its records")
    return source.subset(indices_per_class(source.labels, source.classes, n, seed, source.name))


def indices_per_class(labels, classes, n, seed, whose):
    """Those of the pictures that `take_per_class` takes, in their order."""
    by_label = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(classes)))
    chosen = []
    for label, name in enumerate(classes):
        members = by_label[ends[label - 1] if label else 0 : ends[label]]
        if len(members) < n or n < 1:
            raise ValueError(
                f"{whose} has {len(members)} pictures of {name!r}, so n must be 1 .. that. Received: {n!r}"
            )
        chosen.append(generator(seed, SUBSET, label).permutation(members)[:n])
    return np.sort(np.concatenate(chosen))
