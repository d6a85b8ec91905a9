"""Checkpoints: everything that a step changes, in one file, whole or not at all."""

import json
import os
import pathlib
import re
import zipfile

import numpy as np
from absl import logging
from keras import ops

META = "meta"
_NAME = "step_{:08d}.npz"
_PATTERN = re.compile(r"step_(\d{8,})\.npz")


def save(path, variables, meta):
    """Writes {key: variable} and a dict for JSON beside the final name, flushes, then renames.

    A process that is killed at any moment leaves either the old file or the new one.
    """
    path = pathlib.Path(path)
    unfinished = path.with_name(path.name + ".tmp")
    arrays = {key: ops.convert_to_numpy(variable.value) for key, variable in variables.items()}
    with open(unfinished, "wb") as file:
        np.savez(file, **{META: json.dumps(meta)}, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    folder = os.open(path.parent, os.O_RDONLY)  # the new name itself must reach the disk too
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path, variables):
    """Puts a file's arrays into the variables, all or none, and returns its meta."""
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
    for key, variable in variables.items():
        variable.assign(arrays[key])
    return meta


def is_whole(path):
    """Whether every array in a file can be read; each carries a checksum."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None and f"{META}.npy" in file.namelist()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError):
        return False


def steps(folder):
    """{step: path} of the finished files in a folder, the oldest first."""
    paths = sorted(pathlib.Path(folder).glob("step_*.npz"))
    return {int(match[1]): path for path in paths if (match := _PATTERN.fullmatch(path.name))}


def newest(folder):
    """The newest whole checkpoint of a folder, or None; damaged ones are warned about and passed over."""
    for path in reversed(steps(folder).values()):
        if is_whole(path):
            return path
        logging.warning("%s is damaged: trying the checkpoint before it", path)
    return None


def keep(folder, count):
    """Removes all checkpoints but the newest `count`, and what an interrupted save left."""
    for path in list(steps(folder).values())[:-count]:
        path.unlink()
    for path in pathlib.Path(folder).glob("step_*.npz.tmp"):
        path.unlink()


class Checkpoints:
    """The checkpoints of one run: its folder, the variables of its step, and what is written beside them.

    Args:
        meta: a dict for JSON that every file carries: the recipe, versions.
        count: how many stay.
    """

    def __init__(self, folder, variables, *, meta, count=2):
        self.folder, self.variables, self.meta, self.count = pathlib.Path(folder), variables, meta, count
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, step, samples):
        """`samples` have been drawn since the start: the position in the data."""
        path = self.folder / _NAME.format(step)
        save(path, self.variables, {**self.meta, "step": step, "samples": samples})
        keep(self.folder, self.count)
        return path

    def restore(self):
        """The meta of the newest whole checkpoint, whose values are now in the variables; None without one."""
        path = newest(self.folder)
        return None if path is None else load(path, self.variables)

    def last(self):
        """The path of the newest file by name, for messages."""
        return next(reversed(steps(self.folder).values()), None)
