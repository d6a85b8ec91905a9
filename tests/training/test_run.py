"""What the runs of several processes say to each other, with others that are made up."""

import dataclasses

import pytest

from training import run
from training.devices import OneDevice
from training.recipes import RECIPES

CONFIG = RECIPES["finetune_shapes"]


class Two(OneDevice):
    """The first of two processes; what the other says is `others`, by default the same."""

    count = processes = 2

    def __init__(self, others=lambda number: number):
        self.others, self.asked, self.failed = others, [], 0

    def of_all(self, number):
        return [number, self.others(number)]

    def require_same(self, what, number):
        self.asked.append(what)
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
