"""What a run writes while it goes on: CSV files, TensorBoard events, and a line on the terminal."""

import csv
import math
import pathlib
import sys
import time

from keras import ops
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

TRAIN = ("step", "lr", "loss", "grad_norm", "images_per_s", "seconds", "seconds_left", "skipped")


def as_number(value):
    return float(ops.convert_to_numpy(ops.convert_to_tensor(value)))


def duration(seconds):
    """1:02:03 or 2:03"""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Terminal:
    """Says lines; on a terminal a line of progress is written over the one before it."""

    def __init__(self):
        self._overwrites, self._unfinished = sys.stdout.isatty(), False

    def __call__(self, text, progress=False):
        if self._unfinished:
            print("\r\x1b[K" if progress else "\n", end="")
        self._unfinished = progress and self._overwrites
        print(text, end="" if self._unfinished else "\n", flush=True)


class Table:
    """A CSV file that a resumed run continues: rows of steps that will come again are dropped."""

    def __init__(self, path, columns, first_step):
        kept = []
        if path.exists():
            with open(path, newline="") as file:
                whole = (row for row in csv.DictReader(file) if None not in row.values())  # a crash cuts the last one
                kept = [row for row in whole if int(row["step"]) <= first_step]
        self.kept = kept
        self._file = open(path, "w", newline="")  # noqa: SIM115 - open as long as the run
        self._writer = csv.DictWriter(self._file, columns, restval="")
        self._writer.writeheader()
        self._writer.writerows(kept)

    def write(self, row):
        texts = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
        self._writer.writerow(texts)
        self._file.flush()

    def close(self):
        self._file.close()


class Log:
    """The log of one run in its folder: train.csv, evaluation.csv, and events for TensorBoard.

    Args:
        say: takes (text, progress=False).
    """

    def __init__(self, folder, *, first_step, total_steps, batch_size, say):
        folder = pathlib.Path(folder)
        self.total_steps, self.batch_size, self.say = total_steps, batch_size, say
        self._train = Table(folder / "train.csv", TRAIN, first_step)
        self._evaluation = None  # made with the first row: pre-training has none
        self._folder = folder
        self._events = EventFileWriter(str(folder / "tensorboard"))
        self._substituted = 0
        kept = self._train.kept
        self.losses = [(int(row["step"]), float(row["loss"])) for row in kept]  # mean loss since the last line
        self._seconds_before = float(kept[-1]["seconds"]) if kept else 0.0
        self._opened = time.perf_counter()
        self._start = self._last = (first_step, time.perf_counter())
        self._first_step = first_step

    def step(self, step, rate, reports):
        """Writes the mean over the reports since the last line; returns the length of the streak of skipped steps."""
        losses = [as_number(report["loss"]) for report in reports]  # the only read from the device in the loop
        newest = {key: as_number(reports[-1][key]) for key in ("grad_norm", "skipped", "streak")}
        now = time.perf_counter()
        speed, left = self._speed(step, now)
        finite = [loss for loss in losses if math.isfinite(loss)]
        loss = sum(finite) / len(finite) if finite else losses[-1]
        self.losses.append((step, loss))
        row = {"step": step, "lr": float(rate), "loss": loss, "grad_norm": newest["grad_norm"]}
        row |= {
            "images_per_s": speed,
            "seconds": self.seconds(),
            "seconds_left": left,
            "skipped": int(newest["skipped"]),
        }
        self._train.write(row)
        self._event(step, row)
        skipped = f"  skipped {row['skipped']}" if row["skipped"] else ""
        pace = f"{speed:.0f} images/s  {duration(left)} left"
        if step == self._first_step + 1:  # compilation is in it, so it says nothing about those that follow
            pace = f"first step took {now - self._start[1]:.1f} s"
            self._start = (step, now)
        width = len(str(self.total_steps))
        text = f"step {step:{width}}/{self.total_steps}  loss {loss:.4f}  lr {rate:.2e}  {pace}"
        self.say(f"{text}{skipped}", progress=step < self.total_steps)
        self._last = (step, now)
        return int(newest["streak"])

    def evaluation(self, step, numbers):
        if self._evaluation is None:
            self._evaluation = Table(self._folder / "evaluation.csv", ("step", *numbers), self._first_step)
        self._evaluation.write({"step": step, **numbers})
        self._event(step, numbers)
        text = "  ".join(f"{key} {value:.2f}" for key, value in numbers.items())
        self.say(f"evaluation after step {step}: {text}")

    def without_substitutes(self, batches):
        """The batches without `substituted`, which is counted."""
        for rows in batches:
            self._substituted += int(rows.pop("substituted").sum())
            yield rows

    def results(self):
        """first_loss, loss, losses, seconds, substituted; says what was left out."""
        if self._substituted:
            self.say(
                f"{self._substituted} times another picture took the place of one that cannot be read (named above)"
            )
        ends = {"first_loss": self.losses[0][1], "loss": self.losses[-1][1]} if self.losses else {}
        seconds = round(self.seconds(), 1)
        return {**ends, "seconds": seconds, "losses": self.losses, "substituted": self._substituted}

    def seconds(self):
        """Since the run began, without the time between its sessions."""
        return self._seconds_before + time.perf_counter() - self._opened

    def pause(self):
        """Takes what was not training (evaluating, saving) out of images per second and time left."""
        now = time.perf_counter()
        self._start = (self._start[0], self._start[1] + now - self._last[1])
        self._last = (self._last[0], now)

    def close(self):
        for part in (self._train, self._evaluation, self._events):
            if part is not None:
                part.close()

    def _speed(self, step, now):
        steps = max(1, step - self._last[0])
        speed = steps * self.batch_size / max(1e-9, now - self._last[1])
        since, then = self._start
        each = (now - then) / max(1, step - since)
        return speed, each * (self.total_steps - step)

    def _event(self, step, row):
        values = [Summary.Value(tag=key, simple_value=value) for key, value in row.items() if key != "step"]
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
