"""The folder of a run: whose it is, and what lies where in it."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import zlib

import keras
import numpy as np

import keras_convnextv2
from keras_convnextv2.whole import full_disk_named, write_whole
from training.checkpoints import BEST, MAY_DIFFER, differing, steps
from training.quiet import without_notes

LOCK = "lock"
RECIPE = "recipe.json"
CHECKPOINTS = "checkpoints"
MODEL = "model.keras"
RESULTS = "results.json"
RECORD = {"program": str, "data": str, "recipe": dict, "versions": dict}  # what RECIPE holds at least


def versions():
    """What decides the numbers beside the recipe."""
    return {
        "keras_convnextv2": keras_convnextv2.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "grain": importlib.metadata.version("grain"),
        "pillow": importlib.metadata.version("pillow"),
    }


class Workdir:
    """A folder that belongs to one run.

    Args:
        program: the name of the one that runs, such as finetune.
        resume: go on with the run that the folder holds; else the folder must hold none.
        writes: else it only reads: of several processes one writes.
    Raises:
        ValueError: the folder holds another run, or with `resume` none, or one with another recipe.
    """

    def __init__(self, path, program, config, data, resume, writes=True):
        if not path:
            raise ValueError("--workdir must name a folder for the run. Received: none. Try --workdir runs/first.")
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            rule = "--workdir must have a name in UTF-8: TensorBoard writes nowhere else"
            raise ValueError(f"{rule}. Received: {str(path)!r}.") from error
        self.path, self.writes = folder_of(path), writes
        described = {"program": program, "data": data, "class": type(config).__name__}
        self._record = {**described, "recipe": dataclasses.asdict(config), "versions": versions()}
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--workdir must be a folder. Received: {str(path)!r}, which is a file.")
        self._resume = resume
        self._check = self._check_resumable if resume else self._check_free
        self._check()

    @property
    def meta(self):
        """What every checkpoint carries along."""
        return self._record

    @property
    def fingerprint(self):
        """A number of the recipe, the data, and whether the run goes on."""
        decisive = {key: value for key, value in self._record.items() if key != "versions"}
        decisive["resume"] = self._resume
        return zlib.crc32(json.dumps(decisive).encode())

    def __enter__(self):
        """Makes the folder, takes it for this process, and writes a new run's resolved recipe into it."""
        self._lock = None
        if self.writes:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.path / LOCK, "--workdir")
            try:
                self._check()  # once more: another run may have come and gone since
                if not self._resume:
                    self.write_recipe()
            except BaseException:
                self.__exit__()
                raise
        return self

    def write_recipe(self):
        """The resolved recipe; a resumed run's only when nothing of it is refused any more."""
        if self.writes:
            write_json(self.path / RECIPE, self._record)

    def __exit__(self, *_):
        if self._lock:
            self._lock.close()

    def write_results(self, results):
        if self.writes:
            write_json(self.path / RESULTS, results)

    def save_model(self, model):
        """Writes a .keras file; returns the path."""
        return self.write(MODEL, model.save)

    def write(self, name, writer):
        """A file of the folder, whole or not at all, by a function of the path to write to; returns the path."""
        if self.writes:
            with without_notes():  # Keras imports TensorFlow to save, whatever the backend
                write_whole({self.path / name: writer})
        return self.path / name

    def _check_free(self):
        if (self.path / RECIPE).exists():
            raise ValueError(
                f"--workdir must not hold a run already. Received: {str(self.path)!r}. "
                "Use --resume to go on with it, or another folder."
            )
        states = self.path / CHECKPOINTS
        if steps(states) or (states / BEST).exists():
            raise ValueError(
                f"--workdir must not hold checkpoints of an earlier run. Received: {str(states)!r}, "
                f"without its {RECIPE}. Remove them, or use another folder."
            )

    def _check_resumable(self):
        if not (self.path / RECIPE).exists():
            raise ValueError(
                f"--resume needs a --workdir that holds a run ({RECIPE}). Received: {str(self.path)!r}. "
                "Leave --resume out to start one there."
            )
        theirs, ours = read_record(self.path / RECIPE), json.loads(json.dumps(self._record))
        for key in ("program", "data"):
            if theirs[key] != ours[key]:
                raise ValueError(f"--resume needs the run's own {key}, {theirs[key]!r}. Received: {ours[key]!r}.")
        other = differing(theirs["recipe"], ours["recipe"])
        if other:
            changes = ", ".join(f"{n} {theirs['recipe'].get(n)!r} -> {ours['recipe'].get(n)!r}" for n in other)
            free = ", ".join(MAY_DIFFER)
            raise ValueError(f"--resume needs the same recipe but for {free}. Received other values for: {changes}.")


def folder_of(path):
    """What --workdir names; a shell leaves the ~ of --workdir=~/run as it is."""
    return pathlib.Path(os.path.expanduser(path))


def recorded(path, kind):
    """(config, data) of the run in a folder, whose config must be of this class."""
    if not (folder_of(path) / RECIPE).is_file():
        raise ValueError(f"--resume needs a --workdir that holds a run ({RECIPE}). Received: {str(path)!r}.")
    file = folder_of(path) / RECIPE
    held = read_record(file)
    if held["program"] != kind.__name__.lower():
        rule = f"--resume needs the run's own program, {held['program']!r}"
        raise ValueError(f"{rule}. Received: {kind.__name__.lower()!r}.")
    names = {field.name for field in dataclasses.fields(kind)}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in held["recipe"].items() if key in names}
    try:
        return kind(**values), held["data"]
    except (TypeError, ValueError) as error:  # a field that is missing, or a value that cannot be
        raise ValueError(f"{str(file)!r} must hold the recipe of a run. Received: {error}") from error


def read_record(file):
    """What a recipe.json holds."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        held = None
    held = {"versions": {}, **held} if isinstance(held, dict) else {}
    whole = all(isinstance(held.get(key), kind) for key, kind in RECORD.items())
    if not whole or not held["recipe"]:
        raise ValueError(f"{str(file)!r} must hold the recipe of a run. Received: a damaged file")
    return held


def read_results(file):
    """What a results.json holds."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        held = None
    if not isinstance(held, dict):
        raise ValueError(f"{str(file)!r} must hold the results of a run. Received: a damaged file")
    return held


def locked(path, flag):
    """An open file that no other process can lock until it is closed, or the process ends in whatever way.

    Args:
        flag: what names its folder, for the error.
    """
    file = open(path, "a+", encoding="utf-8")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:
        if not isinstance(error, BlockingIOError):  # Windows, or a file system without locks: nobody is kept out
            return file
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise ValueError(f"{flag} must not be in use. Received: {str(path.parent)!r}, of process {holder}") from error
    try:
        with full_disk_named(path):
            file.truncate(0)
            file.write(f"{os.getpid()} on {platform.node()}\n")
            file.flush()
    except OSError:
        with contextlib.suppress(OSError):  # closing tries to write once more
            file.close()
        raise
    return file


def write_json(path, content):
    write_whole({path: lambda part: part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")})
