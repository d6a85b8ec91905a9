"""What the runs of several processes say to each other, with others that are made up."""

import dataclasses
import os
import signal
import types

import keras
import numpy as np
import pytest

from tests.training.small_model import batches, sample_losses, small_model
from training import run
from training.checkpoints import Checkpoints
from training.devices import ONE, OneDevice, open_devices
from training.logs import Log
from training.loop import Plan, Stopped
from training.optimizers import AdamW
from training.recipes import RECIPES
from training.steps import make_step
from training.workdir import Workdir

CONFIG = RECIPES["finetune_shapes"]
META = {"versions": {"backend": ""}}  # of a checkpoint


class Two(OneDevice):
    """The first of two processes; what the other says is `others`, by default the same.

    Attributes:
        asked: {what must be the same: its number here}.
        failed: how often the other was told.
    """

    count = processes = 2

    def __init__(self, others=lambda number: number):
        self.others, self.asked, self.failed = others, {}, 0

    def of_all(self, number):
        return [number, self.others(number)]

    def require_same(self, what, number):
        self.asked[what] = number
        super().require_same(what, number)

    def fail(self):
        self.failed += 1


@pytest.fixture
def started(monkeypatch, tmp_path):
    """(devices, prepare, changes of the config) -> what run() returns."""

    def start(devices, prepare=None, **changes):
        monkeypatch.setattr(run, "open_devices", lambda config, say: devices)
        return run.run(prepare, dataclasses.replace(CONFIG, **changes), tmp_path / "run", "shapes:12", say=print)

    return start


def test_a_batch_is_refused_where_all_processes_have_it(started):
    devices = Two()
    with pytest.raises(ValueError, match="batch_size must be divisible by devices times accumulation, 2 x 1. Received"):
        started(devices, batch_size=9)
    assert devices.asked and devices.failed == 1


def test_processes_of_other_batches_are_told_so_whether_one_can_be_shared_or_not(started):
    devices = Two(lambda number: number + 1)
    with pytest.raises(ValueError, match="all processes must have the same recipe"):
        started(devices, batch_size=9)
    assert devices.failed == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, OSError])
def test_the_others_learn_of_whatever_ends_a_process(started, kind):
    def prepare(*args):
        raise kind

    devices = Two()
    with pytest.raises(kind):
        started(devices, prepare)
    assert devices.failed == 1


def small_step(devices=ONE, seed=1):
    return make_step(small_model(seed), AdamW(), sample_losses, devices=devices)


def trained(folder, devices, *, step=None, evaluate=None, resume=False, seed=1, steps=1):
    """`_trained` of a small model by one device that may take itself for several processes."""
    step = step or small_step(seed=seed)
    step.devices = devices
    checkpoints = Checkpoints(folder / "checkpoints", step.variables(), meta=META, devices=devices)
    plan = Plan(total_steps=steps, epoch_steps=steps, batch_size=6, rate=lambda step: 0.01)
    place = types.SimpleNamespace(path=folder, write_recipe=lambda: None)
    task, config = types.SimpleNamespace(evaluate=evaluate, best="top_1"), types.SimpleNamespace(evaluate_every=1)
    return run._trained(config, task, plan, step, checkpoints, place, resume, lambda *args, **options: None)


@pytest.fixture
def made_up_batches(monkeypatch):
    monkeypatch.setattr(run, "_batches", lambda *args: [{**batches(1)[0], "substituted": np.arange(6) == 4}])


def test_processes_begin_with_the_same_weights(tmp_path, made_up_batches):
    what = "weights and state to begin with"
    one, same, other = Two(), Two(), Two()
    for folder, devices, seed in (("one", one, 1), ("same", same, 1), ("other", other, 2)):
        trained(tmp_path / folder, devices, seed=seed)
    assert one.asked[what] == same.asked[what] != other.asked[what]
    with pytest.raises(ValueError, match=f"the same {what}. Received: another in process 1"):
        trained(tmp_path / "one", Two(lambda number: number + 1))


def test_processes_go_on_from_the_same_checkpoint(tmp_path, made_up_batches):
    trained(tmp_path, Two())
    found = Two(), Two()
    for devices, seed in zip(found, (1, 2), strict=True):  # a checkpoint has all of the state
        trained(tmp_path, devices, resume=True, seed=seed)
    assert found[0].asked == found[1].asked != {}


@pytest.mark.parametrize("chief", [False, True])
def test_an_evaluation_that_is_lacking_is_made_by_all_or_by_none(tmp_path, made_up_batches, chief):
    devices, evaluated = Two(), []
    trained(tmp_path, devices, evaluate=lambda weights: {"top_1": 1.0})
    (tmp_path / "evaluation.csv").unlink()
    devices.of_chief = lambda number: chief if isinstance(number, bool) else number  # has no row of it here
    trained(tmp_path, devices, evaluate=lambda weights: evaluated.append(1) or {"top_1": 1.0}, resume=True)
    assert len(evaluated) == chief


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of its devices")
def test_the_evaluation_before_the_first_step_of_a_session_finds_the_weights_on_all_devices(tmp_path, made_up_batches):
    devices, places = open_devices(dataclasses.replace(CONFIG, devices=2), print), []

    def evaluate(weights):
        places.append({len(v.value.devices()) for v in step.model.variables})
        return {"top_1": 1.0}

    for _ in range(2):
        step = small_step(devices)
        trained(tmp_path, devices, step=step, evaluate=evaluate, resume=bool(places))
        (tmp_path / "evaluation.csv").unlink()
    assert places == [{2}, {2}]


def test_no_process_leaves_a_stopped_run_before_the_chief_has_saved(tmp_path, monkeypatch):
    def interrupted(*args):
        for number in range(1, 40):
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield {**batches(1)[0], "substituted": np.zeros(6, bool)}

    class Waiting(Two):
        def sum(self, numbers):
            saved.append([path.name for path in (tmp_path / "checkpoints").glob("step_*.npz")])
            return super().sum(numbers)

    saved = []
    monkeypatch.setattr(run, "_batches", interrupted)
    with pytest.raises(Stopped, match="stopped after step 20"):
        trained(tmp_path, Waiting(), steps=40)
    assert saved[-1] == ["step_00000020.npz"]


def test_one_process_alone_cannot_go_on_with_a_run(tmp_path):
    described = ("finetune", CONFIG, "shapes:12")
    with Workdir(tmp_path / "run", *described, resume=False) as folder:
        new = folder.fingerprint
    again, once_more = (Workdir(tmp_path / "run", *described, resume=True).fingerprint for _ in range(2))
    assert new != again == once_more


@pytest.mark.parametrize("text, said", [("", "OSError"), ("\nbroken pipe\nat 7", "broken pipe")])
def test_a_lost_process_is_named_whatever_the_backend_says(text, said):
    devices = Two()
    devices.lost = (OSError,)
    with pytest.raises(ConnectionError, match=f"has ended, or this: {said}. Start"), devices.naming_a_lost_process():
        raise OSError(text)


@pytest.mark.parametrize("process, kept", [(0, 7), (1, 0)])
def test_pictures_that_were_replaced_are_counted_in_all_processes(tmp_path, process, kept):
    """A checkpoint has the number of all, from which the chief alone goes on."""
    devices = Two()
    devices.process, devices.sum = process, lambda number: np.asarray(number + 100.0)  # the other's
    sizes = {"first_step": 4, "total_steps": 8, "batch_size": 3, "say": print}
    log = Log(tmp_path, **sizes, state={"substituted": 7}, devices=devices)
    list(log.without_substitutes([{"substituted": np.array([True, False, True])}]))
    assert log.state()["substituted"] == log.results()["substituted"] == 102 + kept
    log.close()
