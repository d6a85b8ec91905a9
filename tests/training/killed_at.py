"""A run killed at one chosen moment after the other, and one that is not: python -m tests.training.killed_at FOLDER

They are FOLDER/killed and FOLDER/whole. Each session is a fork that ends itself as a kill would, without any clean-up;
the next one goes on in the same folder, and the last one comes to the end.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import signal
import sys
import zipfile

from keras_convnextv2 import whole
from training import checkpoints, finetune, logs, program, run
from training import steps as _steps  # noqa: F401  the step of the backend, imported once for all sessions
from training.recipes import RECIPES

DATA, KILLED = "shapes:40", 99
CONFIG = dataclasses.replace(
    RECIPES["scratch_shapes"],
    **{"depths": (1,), "dims": (8,), "stem_patch_size": 2, "image_size": (16, 16), "batch_size": 8, "workers": 1},
    **{"epochs": 3, "steps": 0, "evaluate_every": 1, "log_every": 2, "ema": 0.9, "choose": "best"},
)


def at_call(owner, name, count=1):
    """Ends the process at the count-th call of a function."""
    function, calls = getattr(owner, name), itertools.count(1)

    def called(*given, **named):
        if next(calls) == count:
            os._exit(KILLED)
        return function(*given, **named)

    setattr(owner, name, called)


def half(name):
    """Ends the process when half of this file is written."""
    flush = whole._flush

    def flushed(path):
        if path.name.endswith(f".part.{name}"):
            os.truncate(path, path.stat().st_size // 2)
            os._exit(KILLED)
        flush(path)

    whole._flush = flushed


def renamed(name, after):
    """Ends the process before a whole file gets its name, or right after it."""
    replace = os.replace

    def replaced(source, path):
        ours = pathlib.Path(path).name == name
        if ours and not after:
            os._exit(KILLED)
        replace(source, path)
        if ours:
            os._exit(KILLED)

    os.replace = replaced


def half_a_row(name):
    """Ends the process when half of the second row of this session is in the table."""
    write, rows = logs.Table.write, itertools.count(1)

    def written(table, row):
        write(table, row)
        if table._path.name == name and next(rows) == 2:
            os.truncate(table._path, table._path.stat().st_size - 9)
            os._exit(KILLED)

    logs.Table.write = written


def asked_to_stop(name):
    """A signal asks the run to stop after its first step, and it is killed when half of what it saves is written."""
    add = logs.Log.add

    def added(log, report):
        add(log, report)
        os.kill(os.getpid(), signal.SIGTERM)

    logs.Log.add = added
    half(name)


FIRST, LAST = "step_00000005.npz", "step_00000015.npz"
MOMENTS = {
    "half the recipe": lambda: half("recipe.json"),
    "the recipe alone": lambda: renamed("recipe.json", after=True),
    "half a row": lambda: half_a_row("train.csv"),
    "half a checkpoint": lambda: half(FIRST),
    "a checkpoint without its evaluation": lambda: renamed(FIRST, after=True),
    "between the evaluations of weights and average": lambda: at_call(finetune, "top_1", count=2),
    "half of the best": lambda: half("best.npz"),
    "the best without its row": lambda: renamed("best.npz", after=True),
    "half a row of an evaluation": lambda: half_a_row("evaluation.csv"),
    "resuming, half a table": lambda: half("train.csv"),
    "resuming, a table without its name": lambda: renamed("evaluation.csv", after=False),
    "resuming, before the first step": lambda: at_call(run, "train"),
    "half of what a signal asked for": lambda: asked_to_stop("step_00000011.npz"),
    "the last checkpoint, and one too many": lambda: renamed(LAST, after=True),
    "half a model": lambda: half("model.keras"),
    "a model without results": lambda: renamed("model.keras", after=True),
    "half the results": lambda: half("results.json"),
    "all is done": lambda: renamed("results.json", after=True),
}


def session(folder, moment=lambda: None):
    """The exit code of a run in this folder that begins or goes on until `moment`."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        moment()
        begun = (folder / "recipe.json").exists()
        program.run(finetune.prepare, CONFIG, str(folder), DATA, begun)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def require_whole(folder):
    """Raises where a file with its final name is not whole."""
    for path in folder.rglob("[!.]*.*"):
        if path.suffix == ".npz":
            assert checkpoints.whole_meta(path), path
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".keras":
            assert zipfile.ZipFile(path).testzip() is None, path


def main(folder):
    assert session(folder / "whole") == 0
    for name, moment in MOMENTS.items():
        print(f"-- {name}", flush=True)
        code = session(folder / "killed", moment)
        assert code == KILLED, f"{name}: {code}"
        require_whole(folder / "killed")
    assert session(folder / "killed") == 0


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
