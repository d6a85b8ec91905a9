"""The folder of a run: whose it is, and what lies where in it."""

import dataclasses
import json
import os
import pathlib
import platform

import keras
import numpy as np

import keras_convnextv2

RECIPE = "recipe.json"
MODEL = "model.keras"
RESULTS = "results.json"


def versions():
    """What decides the numbers beside the recipe."""
    return {
        "keras_convnextv2": keras_convnextv2.__version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


class Workdir:
    """A folder that belongs to one run.

    Args:
        program: pretrain or finetune.
        resume: go on with the run that the folder holds; else the folder must hold none.
    Raises:
        ValueError: the folder holds another run, or with `resume` none, or one with another recipe.
    """

    def __init__(self, path, program, config, data, resume):
        if not path:
            raise ValueError("--workdir must name a folder for the run. Received: none. Try --workdir runs/first.")
        self.path = pathlib.Path(path)
        described = {"program": program, "data": data, "class": type(config).__name__}
        self._record = {**described, "recipe": dataclasses.asdict(config), "versions": versions()}
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--workdir must be a folder. Received: {str(path)!r}, which is a file.")
        (self._check_resumable if resume else self._check_free)()

    @property
    def meta(self):
        """What every checkpoint carries along."""
        return self._record

    def open(self):
        """Makes the folder and writes the resolved recipe into it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / RECIPE, self._record)
        return self.path

    def write_results(self, results):
        write_json(self.path / RESULTS, results)

    def save_model(self, model):
        """Writes a .keras file beside its place and renames it; returns the path."""
        path = self.path / MODEL
        unfinished = path.with_name(f"unfinished_{MODEL}")
        model.save(unfinished)
        os.replace(unfinished, path)
        return path

    def _check_free(self):
        if (self.path / RECIPE).exists():
            raise ValueError(
                f"--workdir must not hold a run already. Received: {str(self.path)!r}. "
                "Use --resume to go on with it, or another folder."
            )

    def _check_resumable(self):
        if not (self.path / RECIPE).exists():
            raise ValueError(
                f"--resume needs a --workdir that holds a run ({RECIPE}). Received: {str(self.path)!r}. "
                "Leave --resume out to start one there."
            )
        theirs, ours = json.loads((self.path / RECIPE).read_text()), json.loads(json.dumps(self._record))
        for key in ("program", "data"):
            if theirs[key] != ours[key]:
                raise ValueError(f"--resume needs the run's own {key}, {theirs[key]!r}. Received: {ours[key]!r}.")
        names = sorted(theirs["recipe"].keys() | ours["recipe"].keys())
        other = [name for name in names if theirs["recipe"].get(name) != ours["recipe"].get(name)]
        if other:
            changes = ", ".join(f"{n} {theirs['recipe'].get(n)!r} -> {ours['recipe'].get(n)!r}" for n in other)
            raise ValueError(f"--resume needs the same recipe. Received other values for: {changes}.")


def write_json(path, content):
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, path)
