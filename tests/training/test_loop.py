import csv
import os
import signal

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.training.small_model import batches, sample_losses, small_model
from training.checkpoints import Checkpoints, steps
from training.logs import Log, duration
from training.loop import NotFinite, Plan, Stopped, train
from training.optimizers import AdamW
from training.steps import make_step

BATCH = 6


class Run:
    """A run of the small model in a folder; its lines are kept."""

    def __init__(self, folder, first_step=0, **plan):
        self.step = make_step(small_model(), AdamW(), sample_losses)
        self.checkpoints = Checkpoints(folder / "checkpoints", self.step.variables(), meta={}, count=2)
        self.lines = []
        numbers = {"total_steps": 8, "epoch_steps": 4, "batch_size": BATCH, "rate": lambda step: 0.01 * (step + 1)}
        self.plan = Plan(**{**numbers, "log_every": 3, "max_bad_steps": 3, **plan})
        sizes = {"total_steps": self.plan.total_steps, "batch_size": BATCH}
        self.log = Log(folder, first_step=first_step, say=lambda text, progress=False: self.lines.append(text), **sizes)
        self.first_step = first_step

    def train(self, rows, **options):
        try:
            train(self.plan, self.step, rows, self.checkpoints, self.log, first_step=self.first_step, **options)
        finally:
            self.log.close()


def bad(rows):
    return {**rows, "images": rows["images"] * float("nan")}


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_logs_checkpoints_and_evaluations_come_when_due(tmp_path):
    run, evaluated = Run(tmp_path), []
    run.train(batches(8), evaluate=evaluated.append)
    assert evaluated == [4, 8]
    assert list(steps(tmp_path / "checkpoints")) == [4, 8]
    rows = table(tmp_path / "train.csv")
    assert [int(row["step"]) for row in rows] == [1, 3, 4, 6, 8]
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.01, 0.03, 0.04, 0.06, 0.08])
    assert "step 8/8  loss" in run.lines[-1]
    assert "images/s  0:00 left" in run.lines[-1]
    (events,) = (tmp_path / "tensorboard").iterdir()
    tags = [v.tag for event in EventFileLoader(str(events)).Load() for v in event.summary.value]
    assert tags.count("loss") == tags.count("lr") == 5


def test_a_streak_stops_with_step_rate_and_the_checkpoint_from_before(tmp_path):
    run = Run(tmp_path, total_steps=12)
    rows = batches(12)
    rows[6:] = [bad(row) for row in rows[6:]]
    message = r"3 steps in a row, up to step 9 \(learning rate 0.09\); last good checkpoint.*04.npz"
    with pytest.raises(NotFinite, match=message):
        run.train(rows)
    assert list(steps(tmp_path / "checkpoints")) == [4]


def test_a_last_step_that_is_not_finite_is_not_saved(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(NotFinite, match="up to step 8"):
        run.train([*batches(7), bad(batches(1)[0])])
    assert list(steps(tmp_path / "checkpoints")) == [4]


def test_a_single_bad_step_is_counted_and_passed_over(tmp_path):
    run = Run(tmp_path)
    rows = batches(8)
    rows[1] = bad(rows[1])
    run.train(rows)
    assert table(tmp_path / "train.csv")[-1]["skipped"] == "1"
    assert "skipped 1" in run.lines[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(tmp_path, number):
    run, before = Run(tmp_path), signal.getsignal(number)

    def rows():
        for i, row in enumerate(batches(8)):
            if i == 5:
                os.kill(os.getpid(), number)
            yield row

    with pytest.raises(Stopped, match=r"stopped after step 6. Newest checkpoint: .*step_00000006.npz"):
        run.train(rows())
    assert list(steps(tmp_path / "checkpoints")) == [4, 6]
    assert signal.getsignal(number) == before


def test_a_resumed_table_has_each_step_once(tmp_path):
    Run(tmp_path).train(batches(8))
    again = Run(tmp_path, first_step=4)
    again.checkpoints.restore()
    again.train(batches(8)[4:])
    assert [int(row["step"]) for row in table(tmp_path / "train.csv")] == [1, 3, 4, 5, 6, 8]


@pytest.mark.parametrize("seconds, text", [(0.4, "0:00"), (75, "1:15"), (3723, "1:02:03")])
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text
