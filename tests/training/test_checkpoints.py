import errno
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from tests.training.small_model import batches, sample_losses, small_model
from training import checkpoints
from training.optimizers import OPTIMIZERS
from training.steps import make_step


def make(optimizer="adamw"):
    model = small_model()
    model.layers[3].seeds.state.assign([7, 0])
    return make_step(model, OPTIMIZERS[optimizer](), sample_losses, ema_decay=0.9, clip_norm=1.0)


def train(step, rows):
    state = step.start()
    for batch in rows:
        state, _ = step.run(state, step.put(batch), 0.01)
    step.store(state)


def bits(step):
    return {key: ops.convert_to_numpy(v.value).tobytes() for key, v in step.variables().items()}


@pytest.fixture
def variables():
    return {"a": keras.Variable(np.arange(6.0).reshape(2, 3)), "b": keras.Variable(3, dtype="int32", trainable=False)}


def folder_of(tmp_path, variables, count=3):
    return checkpoints.Checkpoints(tmp_path / "checkpoints", variables, meta={"recipe": {"size": "atto"}}, count=count)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_five_and_five_steps_are_ten_to_the_last_bit(tmp_path, optimizer):
    rows = batches(10)
    whole, first = make(optimizer), make(optimizer)
    train(whole, rows)
    train(first, rows[:5])
    folder_of(tmp_path, first.variables()).save(5, 30)
    second = make(optimizer)
    train(second, rows[:2])  # another past: all of it must be overwritten
    meta = folder_of(tmp_path, second.variables()).restore()
    assert (meta["step"], meta["samples"], meta["recipe"]) == (5, 30, {"size": "atto"})
    train(second, rows[5:])
    assert bits(second) == bits(whole)


def test_newest_k_stay(tmp_path, variables):
    folder = folder_of(tmp_path, variables, count=2)
    for step in (1, 2, 30):
        folder.save(step, step)
    assert list(checkpoints.steps(folder.folder)) == [2, 30]
    assert folder.last().name == "step_00000030.npz"


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_damaged_newest_is_passed_over(tmp_path, variables, damage, caplog):
    folder = folder_of(tmp_path, variables)
    folder.save(1, 10)
    variables["b"].assign(4)
    path = folder.save(2, 20)
    content = bytearray(path.read_bytes())
    content[90] ^= 255  # inside the first array
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "flipped": content}[damage])
    assert folder.restore()["step"] == 1
    assert int(variables["b"].value) == 3
    assert "step_00000002.npz is damaged: it is now step_00000002.npz.damaged" in caplog.text
    assert list(checkpoints.steps(folder.folder)) == [1] and len(list(folder.folder.glob("*.damaged"))) == 1


def test_any_flipped_bit_is_damage_or_harmless(tmp_path, variables):
    folder = folder_of(tmp_path, variables)
    path = folder.save(2, 20)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, 8 * len(content), 300):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        if checkpoints.whole_meta(path):  # a bit that no reader looks at
            assert checkpoints.load(path, variables)["step"] == 2
            assert ops.convert_to_numpy(variables["a"]).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_disk_that_cannot_be_read_is_no_damage(tmp_path, variables, monkeypatch):
    folder = folder_of(tmp_path, variables)
    path = folder.save(2, 20)

    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
        patch.setattr(checkpoints.zipfile.ZipFile, "testzip", failing)
        folder.restore()
    assert path.exists() and folder.restore()["step"] == 2


def test_damaged_checkpoints_do_not_count(tmp_path, variables):
    folder = folder_of(tmp_path, variables, count=1)
    for step in (5, 6):
        folder.save(step, step).write_bytes(b"")
    assert folder.restore() is None
    folder.save(1, 1)
    assert list(checkpoints.steps(folder.folder)) == [1]


@pytest.mark.parametrize(
    "spoil, ending, said",
    [
        (lambda content: content[: len(content) // 2], "damaged", "is damaged: it is now best.npz.damaged"),
        (lambda content: b"", "damaged", "is damaged"),
        (None, "other", "is of another run: it is now best.npz.other"),
    ],
)
def test_a_best_checkpoint_that_is_damaged_or_anothers_is_set_aside(tmp_path, variables, spoil, ending, said, caplog):
    folder = folder_of(tmp_path, variables)
    folder.keep_best(5, 90.0, {"top_1": 90.0})
    path = folder.folder / "best.npz"
    if spoil:
        path.write_bytes(spoil(path.read_bytes()))
    else:
        folder.meta = {"recipe": {"size": "tiny"}}
    held = path.read_bytes()
    variables["b"].assign(4)
    assert folder.restore_best() is None and said in caplog.text
    assert (folder.folder / f"best.npz.{ending}").read_bytes() == held and not path.exists()
    assert ops.convert_to_numpy(variables["b"].value) == 4
    path.write_bytes(held)
    folder.keep_best(7, 50.0, {"top_1": 50.0})  # worth less than the one that does not count
    assert folder.restore_best()["step"] == 7


def test_a_worse_state_does_not_take_the_place_of_the_best(tmp_path, variables):
    folder = folder_of(tmp_path, variables)
    folder.keep_best(5, 90.0, {"top_1": 90.0})
    folder.keep_best(7, 50.0, {"top_1": 50.0})
    assert folder.restore_best()["step"] == 5


def test_values_that_are_not_finite_are_not_saved(tmp_path, variables):
    folder = folder_of(tmp_path, variables)
    variables["a"].assign(np.full((2, 3), np.inf))
    with pytest.raises(checkpoints.NotFinite, match="must hold finite values. Received: others in a"):
        folder.save(1, 10)
    assert not list(folder.folder.iterdir())


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, variables):
    folder_of(tmp_path, variables).save(1, 10)
    other = checkpoints.Checkpoints(tmp_path / "checkpoints", variables, meta={"recipe": {"size": "atto", "seed": 3}})
    with pytest.raises(ValueError, match="another recipe, with other seed"):
        other.restore()


def test_a_checkpoint_that_names_no_optimizer_is_one_of_adamw(tmp_path, variables):
    folder_of(tmp_path, variables).save(1, 10)

    def restored(optimizer):
        recipe = {"size": "atto", "optimizer": optimizer}
        return checkpoints.Checkpoints(tmp_path / "checkpoints", variables, meta={"recipe": recipe}).restore()

    assert restored("adamw")["step"] == 1
    with pytest.raises(ValueError, match="another recipe, with other optimizer"):
        restored("dadapt_adam")


def test_kill_between_write_and_rename_leaves_the_old_one(tmp_path, variables, monkeypatch):
    folder = folder_of(tmp_path, variables)
    folder.save(1, 10)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        folder.save(2, 20)
    assert folder.restore()["step"] == 1
    folder.save(3, 30)
    assert sorted(path.name for path in folder.folder.iterdir()) == ["step_00000001.npz", "step_00000003.npz"]


def test_what_a_kill_left_too_much_is_removed(tmp_path, variables):
    folder = folder_of(tmp_path, variables)
    for step in (1, 2, 30):
        folder.save(step, step)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    parts = [folder.folder / f".{process}-0.part.step_00000007.npz" for process in (dead.pid, os.getppid())]
    for part in parts:
        part.touch()
    folder = folder_of(tmp_path, variables, count=2)
    assert [part.exists() for part in parts] == [False, True]  # the other one is still at it
    assert folder.restore()["step"] == 30
    assert list(checkpoints.steps(folder.folder)) == [2, 30]


def test_failed_write_leaves_the_old_one(tmp_path, variables, monkeypatch):
    folder = folder_of(tmp_path, variables)
    folder.save(1, 10)

    def full(*_):
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="the disk is full, nothing was written: .*step_00000002.npz"),
    ):
        patch.setattr(os, "fsync", full)
        folder.save(2, 20)
    assert folder.restore()["step"] == 1


def test_nothing_to_restore(tmp_path, variables):
    assert folder_of(tmp_path, variables).restore() is None


def test_state_of_another_run_is_refused_and_nothing_is_assigned(tmp_path, variables):
    folder_of(tmp_path, variables).save(1, 10)
    others = {"a": keras.Variable(np.zeros((2, 3))), "c": keras.Variable(1.0)}
    with pytest.raises(ValueError, match=r"without \['c'\] \(1\), with unknown \['b'\] \(1\)"):
        folder_of(tmp_path, others).restore()
    assert not ops.convert_to_numpy(others["a"]).any()
