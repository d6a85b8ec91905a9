import contextlib
import csv
import errno
import io
import os
import signal

import numpy as np
import pytest
from keras import ops
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.training.small_model import batches, sample_losses, small_model
from training import logs
from training.checkpoints import Checkpoints, steps
from training.logs import Log, duration
from training.loop import NotFinite, Plan, Stopped, train
from training.optimizers import AdamW
from training.steps import make_step

BATCH = 6
TIMES = ("images_per_s", "seconds", "seconds_left")
SIZES = {"first_step": 4, "total_steps": 8, "batch_size": BATCH, "say": print}
to_numpy = ops.convert_to_numpy


class Run:
    """A run of the small model in a folder; its lines are kept."""

    def __init__(self, folder, first_step=0, state=None, **plan):
        self.step = make_step(small_model(), AdamW(), sample_losses)
        self.checkpoints = Checkpoints(folder / "checkpoints", self.step.variables(), meta={}, count=2)
        self.lines = []
        numbers = {"total_steps": 8, "epoch_steps": 4, "batch_size": BATCH, "rate": lambda step: 0.01 * (step + 1)}
        self.plan = Plan(**{**numbers, "log_every": 3, "max_bad_steps": 3, **plan})
        sizes = {"total_steps": self.plan.total_steps, "batch_size": BATCH}
        say = lambda text, progress=False: self.lines.append(text)  # noqa: E731
        folder.mkdir(exist_ok=True)
        self.log = Log(folder, first_step=first_step, say=say, state=state, **sizes)
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


def test_a_last_step_whose_update_overflows_is_not_saved(tmp_path):
    evaluated = []
    run = Run(tmp_path, rate=lambda step: float("inf") if step == 7 else 0.01)  # loss and gradients are finite
    message = r"after step 8 a checkpoint must hold finite values.* last good checkpoint: .*04.npz\. Try a lower"
    with pytest.raises(NotFinite, match=message):
        run.train(batches(8), evaluate=evaluated.append)
    assert list(steps(tmp_path / "checkpoints")) == evaluated == [4]


def test_a_single_bad_step_is_counted_and_passed_over(tmp_path):
    run = Run(tmp_path)
    rows = batches(8)
    rows[1] = bad(rows[1])
    run.train(rows)
    assert table(tmp_path / "train.csv")[-1]["skipped"] == "1"
    assert "skipped 1" in run.lines[-1]


def test_a_signal_at_any_moment_of_a_step_is_followed_by_a_save(tmp_path, monkeypatch):
    run = Run(tmp_path, log_every=1)
    streak = run.log.streak

    def interrupted():
        if len(run.log.losses) == 2:  # in the third step, after the flag was read
            os.kill(os.getpid(), signal.SIGINT)
        return streak()

    monkeypatch.setattr(run.log, "streak", interrupted)
    with pytest.raises(Stopped, match="stopped after step 4. Newest checkpoint: .*step_00000004"):
        run.train(batches(8))
    assert list(steps(tmp_path / "checkpoints")) == [4]


def test_rows_and_losses_equal_those_of_a_run_that_was_never_stopped(tmp_path):
    options = {"total_steps": 20, "epoch_steps": 7, "log_every": 3}
    whole = Run(tmp_path / "whole", **options)
    whole.train(batches(20), evaluate=lambda done: whole.log.evaluation(done, {"top_1": done / 3}))
    folder, first, state = tmp_path / "stopped", 0, None
    for stop in (2, 5, 9, 14, 20):
        part = Run(folder, first, state, **options)
        if first:
            state = part.checkpoints.restore()["log"]
            part = Run(folder, first, state, **options)
            part.checkpoints.restore()

        def rows(first=first, stop=stop):
            for number, row in enumerate(batches(20)[first:], first + 1):
                if number == stop < 20:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield row

        evaluate = lambda done, log=part.log: log.evaluation(done, {"top_1": done / 3})  # noqa: E731
        if first and first % 7 == 0:
            assert not part.log.evaluated(first)
            evaluate(first)
        with pytest.raises(Stopped) if stop < 20 else contextlib.nullcontext():
            part.train(rows(), evaluate=evaluate)
        first = stop
    timeless = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in table(place / f"{name}.csv")]
        for name in ("train", "evaluation")
        for place in (tmp_path / "whole", folder)
    ]
    assert timeless[0] == timeless[1] and timeless[2] == timeless[3] and len(timeless[0]) == 10
    assert part.log.losses == whole.log.losses
    for key, v in whole.step.variables().items():
        np.testing.assert_array_equal(to_numpy(v), to_numpy(part.step.variables()[key]), err_msg=key)


def test_a_table_without_its_header_begins_anew(tmp_path):
    (tmp_path / "train.csv").write_text("3,0.1,0.5\n4,0.1\n")
    Run(tmp_path, first_step=4).train(batches(8)[4:])
    assert [int(row["step"]) for row in table(tmp_path / "train.csv")] == [6, 8]


@pytest.mark.parametrize("name", ["train", "evaluation"])
@pytest.mark.parametrize(
    "old, new",
    [
        (b"step", b"sdep"),
        (b"loss", b"lo\xf3s"),
        (b"loss", b"lors"),
        (b"4,0.5", b"4,0.u"),
        (b"4,0.5", b"4,,.5"),
        (b"4,0.5", b"4.0.5"),
        (b"4,0.5", b'4,"0.5'),
        (b"\n4", b"n4"),
    ],
)
def test_a_damaged_table_is_set_aside_and_begins_anew(tmp_path, caplog, name, old, new):
    whole = b"step,loss,seconds\n1,0.7,3.0\n4,0.5,9.0\n"
    (tmp_path / f"{name}.csv").write_bytes(whole.replace(old, new))
    Log(tmp_path, **SIZES, best="loss").close()
    assert (tmp_path / f"{name}.csv.damaged").read_bytes() == whole.replace(old, new)
    assert f"{name}.csv is damaged: it is now {name}.csv.damaged" in caplog.text
    (tmp_path / f"{name}.csv").write_bytes(whole)
    Log(tmp_path, **SIZES, best="loss").close()
    assert len(table(tmp_path / f"{name}.csv")) == 2


def test_a_row_cut_in_its_last_number_does_not_count(tmp_path):
    (tmp_path / "evaluation.csv").write_bytes(b"step,top_1\r\n4,48.5\r\n8,5")  # of 57.3
    log = Run(tmp_path, first_step=8).log
    log.close()
    assert log.evaluated(8) == {} and log.evaluated(4) == {"top_1": 48.5}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_stops(tmp_path, number):
    run, before = Run(tmp_path), signal.getsignal(number)

    def rows():
        for i, row in enumerate(batches(8)):
            if i == 5:
                os.kill(os.getpid(), number)
            yield row

    with pytest.raises(Stopped, match=r"stopped after step 6. Newest checkpoint: .*step_00000006.npz") as stopped:
        run.train(rows())
    assert stopped.value.exit_code == 128 + number
    assert list(steps(tmp_path / "checkpoints")) == [4, 6]
    assert signal.getsignal(number) == before


def test_what_was_asked_for_is_saved_before_anything_is_said(tmp_path):
    run = Run(tmp_path)

    def closed(text, progress=False):
        if text.startswith("step 4"):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    run.log.say = closed
    with pytest.raises(BrokenPipeError):
        run.train(batches(8))
    assert list(steps(tmp_path / "checkpoints")) == [4]


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.EIO, "Input/output")])
def test_a_terminal_that_is_gone_ends_nothing(monkeypatch, error):
    heard = []

    class Gone(io.StringIO):
        def write(self, text):
            heard.append(text)
            raise error

    monkeypatch.setattr(logs.sys, "stdout", Gone())
    say = logs.Terminal()
    say("first step")
    say("second step")
    assert heard == ["first step"]


def test_a_name_that_is_no_utf_8_can_be_said(capsys):
    logs.Terminal()("written: runs/caf\udce9")
    assert capsys.readouterr().out == "written: runs/caf\\xe9\n"


def test_a_terminal_that_closes_may_send_its_signal_twice(tmp_path):
    run = Run(tmp_path)
    before = signal.signal(signal.SIGHUP, lambda *_: pytest.fail("the second one had its usual effect"))
    rows = batches(8)

    def closing():
        for i, row in enumerate(rows):
            for _ in range(2 if i == 5 else 0):
                os.kill(os.getpid(), signal.SIGHUP)
            yield row

    try:
        with pytest.raises(Stopped):
            run.train(closing())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert list(steps(tmp_path / "checkpoints")) == [4, 6]


def test_a_signal_in_a_streak_is_followed_by_a_save_when_the_streak_ends(tmp_path):
    run, rows = Run(tmp_path, total_steps=12, epoch_steps=12), batches(12)

    def asked():
        for i, row in enumerate(rows):
            if i == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield bad(row) if i in (5, 6) else row

    with pytest.raises(Stopped, match="stopped after step 8. Newest checkpoint: .*step_00000008"):
        run.train(asked())
    assert list(steps(tmp_path / "checkpoints")) == [8]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_the_caller_ignores_stops_nothing(tmp_path, number):
    run, before = Run(tmp_path), signal.signal(number, signal.SIG_IGN)  # as nohup does
    try:
        run.train(row if os.kill(os.getpid(), number) is None else None for row in batches(8))
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert list(steps(tmp_path / "checkpoints")) == [4, 8]


def test_a_resumed_table_has_each_step_once(tmp_path):
    Run(tmp_path).train(batches(8))
    again = Run(tmp_path, first_step=4)
    again.checkpoints.restore()
    again.train(batches(8)[4:])
    assert [int(row["step"]) for row in table(tmp_path / "train.csv")] == [1, 3, 4, 6, 8]


@pytest.mark.parametrize("name", ["__init__", "add_event", "close"])
def test_a_full_disk_is_one_line_for_the_events_too(tmp_path, monkeypatch, name):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logs.EventFileWriter, name, full)
    with pytest.raises(OSError, match="the disk is full, nothing was written: .*tensorboard'$"):
        Run(tmp_path).train(batches(8))


@pytest.mark.parametrize("seconds, text", [(0.4, "0:00"), (75, "1:15"), (3723, "1:02:03")])
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text
