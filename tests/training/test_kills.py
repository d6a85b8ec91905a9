"""A run that is killed again and again ends as one that never was.

By hand with more kills: KERAS_CONVNEXTV2_KILLS=10 python -m pytest tests/training/test_kills.py
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_convnextv2  # noqa: F401  the saved model is of its classes

KILLS = int(os.environ.get("KERAS_CONVNEXTV2_KILLS", 3))
LINES = 12  # a process is killed after so many lines of its output at most
TIMES = {"seconds", "images_per_s", "seconds_left"}
SETTINGS = ["depths=1,1", "dims=8,12", "stem_patch_size=2", "image_size=16,16", "batch_size=8", "ema=0.9"]
SETTINGS += ["choose=best", f"epochs={2 + 2 * KILLS}", "steps=0", "evaluate_every=1", "log_every=2"]
SETTINGS += ["drop_path_rate=0.2", "workers=1", "keep_checkpoints=2"]
STOPS = {"mixed": [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]}
if "KERAS_CONVNEXTV2_KILLS" in os.environ:
    STOPS["killed"] = [signal.SIGKILL]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("kills"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
]


def started(folder, *flags):
    words = [sys.executable, "-m", "training.finetune", "--workdir", str(folder), *flags]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process):
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]


def begin(folder):
    settings = [f"--set={setting}" for setting in SETTINGS]
    return started(folder, "--recipe", "scratch_shapes", "--data", "shapes:40", *settings)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finished(begin(folder))
    return folder


def state_in(path):
    """{key: bytes} of a checkpoint, with its meta as data."""
    with np.load(path) as file:
        meta = json.loads(str(file["meta"]))
        return {key: file[key].tobytes() for key in file.files if key != "meta"} | {"meta": meta}


def left_by(folder):
    """All that a run leaves, without times and without the folder's own name."""
    newest = sorted((folder / "checkpoints").glob("step_*.npz"))[-1]
    model = keras.models.load_model(folder / "model.keras", compile=False)
    tables = {}
    for name in ("train.csv", "evaluation.csv"):
        with open(folder / name, newline="") as file:
            tables[name] = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    results = json.loads((folder / "results.json").read_text().replace(str(folder), "FOLDER"))
    results.pop("seconds")
    return {
        "newest": {"name": newest.name, **state_in(newest)},
        "best": state_in(folder / "checkpoints" / "best.npz"),
        "model": [keras.ops.convert_to_numpy(weight).tobytes() for weight in model.weights],
        "results": results,
        **tables,
    }


def assert_ended_alike(killed, undisturbed):
    ours, theirs = left_by(killed), left_by(undisturbed)
    for what in theirs:
        assert ours[what] == theirs[what], what
    counts = [len(list((folder / "checkpoints").iterdir())) for folder in (killed, undisturbed)]
    assert counts[0] == counts[1], list((killed / "checkpoints").iterdir())
    assert not list(killed.rglob(".*"))  # nothing half-written stays


@pytest.mark.parametrize("stop", STOPS)
def test_a_run_stopped_at_random_moments_ends_as_an_undisturbed_one(undisturbed, tmp_path, stop):
    rng, folder, stops = random.Random(stop), tmp_path / "run", []
    process = begin(folder)
    for kill in range(KILLS):
        number = STOPS[stop][kill % len(STOPS[stop])]
        for _ in range(rng.randint(1, LINES)):
            if not process.stdout.readline():
                break
        try:
            process.wait(rng.uniform(0, 0.3))  # between two lines too, while it writes or evaluates
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        output, _ = process.communicate()
        assert process.returncode in (0, -number, 128 + number), output[-3000:]
        stops += [output] * (process.returncode != 0)
        begun = (folder / "recipe.json").exists()  # else it was killed before its folder was made
        process = started(folder, "--resume") if begun else begin(folder)
    finished(process)
    assert len(stops) > KILLS // 2
    assert_ended_alike(folder, undisturbed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_run_killed_at_each_chosen_moment_ends_as_an_undisturbed_one(tmp_path):
    command = [sys.executable, "-m", "tests.training.killed_at", str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert_ended_alike(tmp_path / "killed", tmp_path / "whole")
