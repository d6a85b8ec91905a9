"""Two devices or two processes of a run do what one does, and a killed one is noticed: the programs, on loopback."""

import csv
import functools
import json
import os
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.training.colours import write_colour

BACKEND = keras.backend.backend()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(BACKEND == "torch", reason="trains in one process on one device"),
]
TINY = ["depths=1,1", "dims=8,12", "stem_patch_size=2", "image_size=16,16", "batch_size=8", "base_lr=0.03", "ema=0.9"]
TINY += ["accumulation=2", "clip_norm=0.5", "log_every=2", "steps=20", "workers=1", "warmup_epochs=0"]
PROGRAMS = {  # recipe, and what only this program has
    "finetune": ("scratch_shapes", ["drop_path_rate=0", "evaluation_batch_size=11"]),
    "pretrain": ("pretrain_shapes", ["decoder_dim=8"]),
}
STEPS = {"weights", "first", "second", "average"}
# Runs a command whose files cannot become larger than this: a full disk, for whoever writes.
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
os.execv(sys.argv[1], sys.argv[1:])
"""

# Runs a program that gets a signal after so many steps of this session: the number, the program, its flags.
ASKED = """
import itertools, os, runpy, signal, sys
from training import logs
(count, program), calls, add = sys.argv[1:3], itertools.count(1), logs.Log.add
def added(log, report):
    add(log, report)
    if next(calls) == int(count):
        os.kill(os.getpid(), signal.SIGTERM)
logs.Log.add = added
del sys.argv[1:3]
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


def command(folder, program="finetune", resume=False, data="shapes:48", **changes):
    recipe, own = PROGRAMS[program]
    values = {**dict(pair.split("=") for pair in [*TINY, *own]), **changes}
    words = [sys.executable, "-m", f"training.{program}", "--recipe", recipe, "--data", data]
    words += ["--workdir", str(folder), *(f"--set={key}={value}" for key, value in values.items())]
    return words + ["--resume"] * resume


def environments():
    """Those of two processes."""
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in (first, second)]
    for process in range(2):
        jax = {"JOB_ADDRESSES": addresses[0], "NUM_PROCESSES": "2", "PROCESS_ID": str(process)}
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": process}}
        jax = {f"KERAS_DISTRIBUTION_{name}": value for name, value in jax.items()}
        yield {**os.environ, **(jax if BACKEND == "jax" else {"TF_CONFIG": json.dumps(task)})}


def asked(words, count):
    """The command of a run that a signal asks to stop after so many steps."""
    python, _, program, *flags = words
    return [python, "-c", ASKED, str(count), program, *flags]


def started(*commands):
    """Two processes of a run, by a command for both or one for each."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pairs = zip(commands * (2 // len(commands)), environments(), strict=True)
    return [subprocess.Popen(words, env=environment, **pipes) for words, environment in pairs]


def ended(processes):
    answers = [process.communicate(timeout=300) for process in processes]
    for process, (_, error) in zip(processes, answers, strict=True):
        assert process.returncode == 0, error[-3000:]
    return ["\n".join(x for x in answer.splitlines() if not x.startswith("[Gloo]")) for answer, _ in answers]


def state(folder):
    with np.load(sorted((folder / "checkpoints").glob("step_*.npz"))[-1]) as file:
        return {key: file[key] for key in file.files if key != "meta"}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    largest = max(np.abs(value).max() for key, value in ours.items() if key.startswith("weights/"))
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, atol=1e-5 * largest, rtol=0, err_msg=key)


def losses(folder):
    """Of every step, as numbers of a group of them: other pictures would have other losses."""
    with (folder / "train.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def assert_ended_alike(ours, theirs):
    assert_same(state(ours), state(theirs))
    np.testing.assert_allclose(losses(theirs), losses(ours), rtol=1e-5)
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (ours, theirs))
    assert [theirs.get(key) for key in ("steps", "top_1")] == [ours.get(key) for key in ("steps", "top_1")]
    assert theirs.get("top_1_average") == ours.get("top_1_average")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(program) -> the folder of its run on one device, made once."""

    @functools.cache
    def ran(program):
        folder = tmp_path_factory.mktemp("alone") / program
        subprocess.run(command(folder, program), check=True, capture_output=True)
        return folder

    return ran


@pytest.mark.parametrize("program", PROGRAMS)
def test_two_devices_do_what_one_does(alone, tmp_path, program):
    done = subprocess.run(command(tmp_path / "run", program, devices=2), check=True, capture_output=True, text=True)
    assert "2 devices of 1 process(es)" in done.stdout
    assert_ended_alike(alone(program), tmp_path / "run")


@pytest.mark.parametrize("program", PROGRAMS)
def test_two_processes_do_what_one_does(alone, tmp_path, program):
    said = ended(started(command(tmp_path / "run", program)))
    assert "2 devices of 2 process(es)" in said[0] and said[1] == ""
    assert_ended_alike(alone(program), tmp_path / "run")


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_one_alone_goes_on(alone, tmp_path, killed):
    folder, other = tmp_path / "run", 1 - killed
    processes = started(command(folder, evaluate_every=1))
    for line in processes[0].stdout:
        if line.startswith("evaluation after step 6"):
            break
    processes[killed].send_signal(signal.SIGKILL)
    _, error = processes[other].communicate(timeout=300)
    processes[killed].communicate()
    assert processes[other].returncode not in (0, None)
    assert "another process of this run has ended" in error
    subprocess.run(command(folder, resume=True, evaluate_every=1), check=True, capture_output=True)
    assert_same(state(alone("finetune")), state(folder))
    rows = [(folder / "train.csv").read_text().splitlines() for folder in (alone("finetune"), folder)]
    assert [row.split(",")[0] for row in rows[0]] == [row.split(",")[0] for row in rows[1]]


def test_a_signal_to_one_process_stops_both_and_other_numbers_of_them_go_on(alone, tmp_path):
    folder = tmp_path / "run"
    again = command(folder, resume=True)
    done = subprocess.run(asked(command(folder), 3), capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM and "stopped after step 3. " in done.stderr, done.stderr[-3000:]
    processes = started(again, asked(again, 5))
    errors = [process.communicate(timeout=300)[1] for process in processes]
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 128 + signal.SIGTERM and "stopped after step 8. " in error, error[-3000:]
    subprocess.run([*again, "--set=devices=2"], check=True, capture_output=True)
    assert_ended_alike(alone("finetune"), folder)


def test_a_full_disk_ends_both_with_a_line_each_and_one_alone_goes_on(alone, tmp_path):
    folder = tmp_path / "run"
    words = command(folder)
    processes = started([sys.executable, "-c", LIMITED, *words], words)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert all(process.returncode not in (0, None) for process in processes)
    assert "error: [Errno 27] File too large: " in errors[0] and "step_00000006.npz" in errors[0]
    assert "another process of this run has ended" in errors[1]
    subprocess.run(command(folder, resume=True), check=True, capture_output=True)
    assert_same(state(alone("finetune")), state(folder))


def test_processes_that_disagree_are_told(tmp_path):
    processes = started(*(command(tmp_path / "run", seed=str(seed)) for seed in range(2)))
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert all("error: all processes must have the same recipe, data and --resume" in error for error in errors), errors


def test_processes_whose_pictures_differ_are_told(tmp_path):
    """Of each its own copy of the set; a picture that has another name is one of another order."""
    for process in range(2):
        for split in ("train", "test"):
            for number in range(6):
                name = "renamed" if (process, split, number) == (1, "train", 4) else number
                folder = tmp_path / f"home_{process}" / "photos" / split
                write_colour(folder / ("red", "blue")[number % 2] / f"{name}.png", "red")
    words, pipes = command(tmp_path / "run", data="folder:~/photos"), {"stderr": subprocess.PIPE, "text": True}
    homes = [{**environment, "HOME": str(tmp_path / f"home_{i}")} for i, environment in enumerate(environments())]
    processes = [subprocess.Popen(words, env=home, stdout=subprocess.DEVNULL, **pipes) for home in homes]
    said = "error: all processes must have the same pictures, classes and labels in folder:~/photos (train). Received: "
    assert all(said in process.communicate(timeout=300)[1] for process in processes)
    assert all(process.returncode == 1 for process in processes) and not (tmp_path / "run").exists()
