"""Checkpoints: everything that a step changes, in one file, whole or not at all."""

import errno
import json
import lzma
import os
import pathlib
import re
import struct
import zipfile
import zlib

import numpy as np
from absl import logging
from keras import ops

from keras_convnextv2.whole import clear_folder, write_whole
from training.devices import ONE

META = "meta"
MAY_DIFFER = (
    "epochs",
    "steps",
    "workers",
    "worker_processes",
    "download",
    "devices",
    "strategy",
    "log_every",
    "choose",
    "accumulation",  # drop path then draws by other parts
    "evaluation_batch_size",
    "keep_checkpoints",
)  # when a run goes on
# What a recipe stands for that was written before it had these fields.
BEFORE = {"optimizer": "adamw"}
BEST = "best.npz"
_NAME = "step_{:08d}.npz"
_PATTERN = re.compile(r"step_(\d{8,})\.npz")


# What damaged bytes make of the reader of an archive.
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError, LookupError)


class NotFinite(ArithmeticError):
    """Loss, gradients or weights are not finite, and stay so."""


def save(path, variables, meta):
    """Writes {key: variable} and a dict for JSON, whole or not at all.

    Raises:
        NotFinite: a value is not finite; nothing is written then.
    """
    arrays = {key: ops.convert_to_numpy(variable.value) for key, variable in variables.items()}
    bad = [key for key, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        raise NotFinite(f"a checkpoint must hold finite values. Received: others in {bad[0]} and {len(bad) - 1} more")

    def write(part):
        with open(part, "wb") as file:
            np.savez(file, **{META: json.dumps({**meta, "arrays": list(arrays)})}, **arrays)

    write_whole({pathlib.Path(path): write})


def load(path, variables, recipe=None):
    """Puts a file's arrays into the variables, all or none, and returns its meta; raises for another recipe's."""
    with np.load(path) as file:
        names = set(file.files) - {META}
        lost, extra = sorted(set(variables) - names), sorted(names - set(variables))
        if lost or extra:
            raise ValueError(
                f"{path} must hold exactly the state of this run. Received: without {lost[:3]} ({len(lost)}), "
                f"with unknown {extra[:3]} ({len(extra)}). Resume with the recipe and the version that wrote it."
            )
        arrays = {key: file[key] for key in variables}  # all read before the first is assigned
        meta = json.loads(str(file[META]))
    other = [] if recipe is None else differing(meta.get("recipe"), recipe)
    if other:
        raise ValueError(f"{path} must be of this run. Received: one of another recipe, with other {', '.join(other)}")
    for key, variable in variables.items():
        variable.assign(arrays[key])
    return meta


def differing(theirs, ours, may_differ=MAY_DIFFER):
    """The keys whose values differ between two recipes and must not; one of them may have been through JSON."""
    theirs, ours = ({**BEFORE, **(recipe or {})} for recipe in (theirs, json.loads(json.dumps(ours or {}))))
    keys = sorted((theirs.keys() | ours.keys()) - set(may_differ))
    return [key for key in keys if theirs.get(key) != ours.get(key)]


def holds_whole(folder):
    """Whether a run can go on from a checkpoint in this folder; nothing is changed there."""
    return any(whole_meta(path) for path in reversed(steps(folder).values()))


def whole_meta(path):
    """The meta of a file whose every array can be read, else None; a disk that cannot be read is no damage: it raises.

    Each array carries a checksum, which is read without making sense of what stands there; the names stand in the meta.
    """
    with open(path, "rb") as opened:
        try:
            with zipfile.ZipFile(opened) as archive:
                if archive.testzip() is not None:
                    return None
            opened.seek(0)
            with np.load(opened) as file:
                meta = json.loads(str(file[META]))
                return meta if set(meta["arrays"]) == set(file.files) - {META} else None
        except DAMAGE:
            return None
        except OSError as error:
            if error.errno in (None, errno.EINVAL):  # of bz2; a place before the beginning of the file
                return None
            raise


def steps(folder):
    """{step: path} of the finished files in a folder, the oldest first."""
    paths = sorted(pathlib.Path(folder).glob("step_*.npz"))
    return {int(match[1]): path for path in paths if (match := _PATTERN.fullmatch(path.name))}


def newest(folder):
    """The newest whole checkpoint of a folder, or None; damaged ones are set aside under another name, and said."""
    for path in reversed(steps(folder).values()):
        if whole_meta(path):
            return path
        set_aside(path, "damaged", "damaged")
    return None


def set_aside(path, ending, what):
    """Gives a file that must not count another name, and says so."""
    aside = path.with_name(f"{path.name}.{ending}")
    os.replace(path, aside)
    logging.warning("%s is %s: it is now %s", path, what, aside.name)


def keep(folder, count):
    """Removes all checkpoints but the newest `count`."""
    for path in list(steps(folder).values())[:-count]:
        path.unlink()


class Checkpoints:
    """The checkpoints of one run: its folder, the variables of its step, and what is written beside them.

    Args:
        meta: a dict for JSON that every file carries: the recipe, versions.
        count: how many stay.
        devices: of several processes that share the folder the chief writes, and says which file is read.
    """

    def __init__(self, folder, variables, *, meta, count=2, devices=ONE):
        self.folder, self.variables, self.meta, self.count = pathlib.Path(folder), variables, meta, count
        self.devices = devices
        if self.devices.chief:
            self.folder.mkdir(parents=True, exist_ok=True)
            clear_folder(self.folder)  # a step between two epochs, where a signal asked for it, does not come again

    def save(self, step, samples, **more):
        """`samples` have been drawn since the start, the position in the data; `more` is for JSON too."""
        path = self.folder / _NAME.format(step)
        if self.devices.chief:
            save(path, self.variables, {**self.meta, "step": step, "samples": samples, **more})
            keep(self.folder, self.count)
        return path

    def keep_best(self, step, worth, numbers):
        """Writes the state as best.npz where it is worth more than the one there."""
        path = self.folder / BEST
        if not self.devices.chief:
            return
        held = self._best()
        if held is None or held["worth"] < worth:
            save(path, self.variables, {**self.meta, "step": step, "worth": worth, "numbers": numbers})

    def restore_best(self):
        """The meta of best.npz, whose values are now in the variables; None without one of this run."""
        found = self._best() if self.devices.chief else None
        if not int(self.devices.of_chief(int(found is not None))):
            return None
        return load(self.folder / BEST, self.variables, self.meta.get("recipe"))

    def _best(self):
        """The meta of best.npz; one that is damaged or of another recipe is set aside under another name, and said."""
        path = self.folder / BEST
        if not path.exists():
            return None
        meta = whole_meta(path)
        if not meta or not {"worth", "numbers"} <= meta.keys():
            set_aside(path, "damaged", "damaged")
        elif differing(meta.get("recipe"), self.meta.get("recipe")):
            set_aside(path, "other", "of another run")
        else:
            return meta
        return None

    def restore(self):
        """The meta of the newest whole checkpoint, whose values are now in the variables; None without one.

        Raises:
            ValueError: it is of another run.
        """
        path = newest(self.folder) if self.devices.chief else None
        step = self.devices.of_chief(int(_PATTERN.fullmatch(path.name)[1]) if path else -1)
        if step < 0:
            return None
        meta = load(self.folder / _NAME.format(int(step)), self.variables, self.meta.get("recipe"))
        if self.devices.chief:
            keep(self.folder, self.count)  # a run that was killed after it had saved left one more
        return meta

    def last(self):
        """The path of the newest file by name, for messages."""
        return next(reversed(steps(self.folder).values()), None)
