"""What is written for others stands beside its destination until it is whole, whatever happens on the way."""

import contextlib
import errno
import functools
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import pytest

from keras_convnextv2.whole import ENTRY, whole_folder, write_weights, write_whole

ROOT = pathlib.Path(__file__).parents[1]
MARK = "saved_model.pb"
FOLDER = """
import os, pathlib, signal, sys
from keras_convnextv2.whole import whole_folder
with whole_folder(sys.argv[1], "saved_model.pb") as part:
    part.mkdir()
    (part / "half").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
FILES = """
import os, pathlib, signal, sys
from keras_convnextv2.whole import write_whole
def write(part):
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
write_whole({pathlib.Path(sys.argv[1]): write})
"""


def killed(program, path):
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, env={**os.environ})
    assert done.returncode < 0


def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def put(path, text):
    with whole_folder(path, MARK) as part:
        part.mkdir()
        (part / MARK).write_text(text)


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    put(tmp_path / "served", "first")
    put(tmp_path / "served", "second")
    assert content(tmp_path) == {f"served/{MARK}": "second"}


def test_a_killed_call_leaves_the_old_folder_and_the_next_one_clears(tmp_path):
    put(tmp_path / "served", "old")
    killed(FOLDER, tmp_path / "served")
    assert content(tmp_path / "served") == {MARK: "old"}
    assert len(list(tmp_path.iterdir())) == 2
    put(tmp_path / "served", "new")
    assert content(tmp_path) == {f"served/{MARK}": "new"}


def test_what_was_moved_away_by_a_killed_call_comes_back(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    away = tmp_path / f".{dead.pid}-0.old.served"
    away.mkdir()
    (away / MARK).write_text("old")
    with pytest.raises(RuntimeError, match="on the way"), whole_folder(tmp_path / "served", MARK):
        raise RuntimeError("on the way")
    assert content(tmp_path) == {f"served/{MARK}": "old"}


def test_files_of_a_running_process_stay(tmp_path):
    running = tmp_path / f".{os.getppid()}-0.part.model.pt"
    running.write_text("half")
    write_whole({tmp_path / "model.pt": lambda part: part.write_text("whole")})
    assert running.exists() and (tmp_path / "model.pt").read_text() == "whole"


def test_a_killed_write_is_cleared_by_the_next(tmp_path):
    (tmp_path / "model.pt").write_text("old")
    killed(FILES, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    write_whole({tmp_path / "model.pt": lambda part: part.write_text("new")})
    assert content(tmp_path) == {"model.pt": "new"}


FULL = {  # what libraries say on a full disk
    "python": OSError(errno.ENOSPC, "No space left on device", "part"),
    "safetensors": Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    "tensorflow": Exception("variables/part-00000-of-00001.data; No space left on device [Op:SaveV2]"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2020032 vs 2019920"),
}


@pytest.mark.parametrize("library", FULL)
def test_a_full_disk_is_named_with_the_path(tmp_path, monkeypatch, library):
    def full(part):
        raise FULL[library]

    if library == "torch":  # the disk has to be asked
        with pytest.raises(RuntimeError, match="unexpected pos"):
            write_whole({tmp_path / "model.pt": full})
        usage = shutil.disk_usage(tmp_path)._replace(free=4096)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (tmp_path / "model.pt").write_text("old")
    with pytest.raises(OSError, match="the disk is full, nothing was written: .*model.pt"):
        write_whole({tmp_path / "model.pt": full})
    with pytest.raises(OSError, match="the disk is full, nothing was written: .*served"):
        with whole_folder(tmp_path / "served", MARK) as part:
            full(part)
    assert content(tmp_path) == {"model.pt": "old"}


class Weights:
    """A model of one weight of 3 x 5 that says how it was saved."""

    weights = [type("variable", (), {"shape": (3, 5)})]

    def save_weights(self, path):
        path.write_text("saved")


def test_another_error_of_the_system_gets_the_path(tmp_path):
    def limited(part):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    with pytest.raises(OSError, match="File too large: .*model.pt"):
        write_whole({tmp_path / "model.pt": limited})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_room_for_weights_is_asked_for_before_they_are_written(tmp_path, monkeypatch, number):
    asked = []

    def allocate(file, offset, size):
        asked.append((offset, size))
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", allocate, raising=False)
    file = tmp_path / "x.weights.h5"
    full = pytest.raises(OSError, match="the disk is full, nothing was written: .*x.weights.h5")
    with full if number == errno.ENOSPC else contextlib.nullcontext():
        write_whole({file: functools.partial(write_weights, Weights())})
    assert asked == [(0, 4 * 15 + ENTRY)]
    assert content(tmp_path) == ({} if number == errno.ENOSPC else {"x.weights.h5": "saved"})


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no room")
def test_there_is_room_enough_for_what_hdf5_writes(tmp_path):
    layers = [keras.layers.Dense(1, name=f"a_long_name_of_a_layer_{number}") for number in range(20)]
    model = keras.Sequential([keras.Input((1,)), *layers])
    asked = []
    allocate = os.posix_fallocate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "posix_fallocate", lambda *given: asked.append(given[2]) or allocate(*given))
        write_weights(model, tmp_path / "x.weights.h5")
    assert 0 < (tmp_path / "x.weights.h5").stat().st_size <= asked[0]


def test_another_folder_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("mine")
    with pytest.raises(ValueError, match="an export replaces an earlier one"), whole_folder(tmp_path / "photos", MARK):
        pass
    assert content(tmp_path) == {"photos/one.jpg": "mine"}


def test_an_interruption_at_any_point_leaves_the_old_folder(tmp_path, monkeypatch):
    put(tmp_path / "served", "old")
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "served", MARK):
        pass  # a writer that wrote nothing
    assert content(tmp_path) == {f"served/{MARK}": "old"}
    rename = os.rename

    def interrupted(source, destination):
        if pathlib.Path(destination).name == "served" and ".part." in pathlib.Path(source).name:
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path / "served", "new")
    assert content(tmp_path) == {f"served/{MARK}": "old"}


def test_two_calls_of_one_process_do_not_meet(tmp_path):
    with whole_folder(tmp_path / "served", MARK) as first:
        first.mkdir()
        put(tmp_path / "served", "inner")
        (first / MARK).write_text("outer")
    assert content(tmp_path) == {f"served/{MARK}": "outer"}
