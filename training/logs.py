"""What a run writes while it goes on: CSV files, TensorBoard events, and a line on the terminal."""

import csv
import math
import pathlib
import sys
import time
import types

import keras
from keras import ops
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from keras_convnextv2.whole import full_disk_named, write_whole
from training.checkpoints import set_aside
from training.data.decode import printable
from training.devices import ONE

if keras.backend.backend() != "tensorflow":
    # tensorboard's own word for doing without TensorFlow, which it would import: seconds, and memory of a GPU
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))


def as_number(value):
    return float(ops.convert_to_numpy(ops.convert_to_tensor(value)))


def duration(seconds):
    """1:02:03 or 2:03"""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def in_words(numbers):
    """{"top_1": 57.8, ...} as one line."""
    return "  ".join(f"{name} {number:.4g}" for name, number in numbers.items())


class Terminal:
    """Says lines; on a terminal a line of progress is written over the one before it.

    It goes quiet once nobody hears it: the terminal was closed, or the program after a pipe has ended.
    """

    def __init__(self):
        self._overwrites, self._unfinished, self._heard = sys.stdout.isatty(), False, True

    def __call__(self, text, progress=False):
        if not self._heard:
            return
        try:
            self._print(text, progress)
        except OSError:
            self._heard = False

    def _print(self, text, progress):
        if self._unfinished:
            print("\r\x1b[K" if progress else "\n", end="")
        self._unfinished = progress and self._overwrites
        print(printable(text), end="" if self._unfinished else "\n", flush=True)


class Table:
    """A CSV file that a resumed run continues: rows of steps that will come again are dropped.

    Args:
        needs: the columns without which a file that is there is damaged: it is set aside and said, as checkpoints are.
    """

    def __init__(self, path, first_step, writes=True, needs=()):
        self._path, self._writes, self.kept = path, writes, []
        if path.exists():
            rows = _rows_in(path, {"step", *needs})
            self.kept = [row for row in rows or () if int(row["step"]) <= first_step]
            if writes and rows is None:
                set_aside(path, "damaged", "damaged")
            elif writes:
                write_whole({path: self._write_kept})
        self._empty = not self.kept

    def write(self, row):
        if not self._writes:
            return
        with full_disk_named(self._path), open(self._path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if self._empty:
                writer.writeheader()
                self._empty = False
            writer.writerow({key: repr(value) if isinstance(value, float) else value for key, value in row.items()})

    def _write_kept(self, part):
        with open(part, "w", newline="", encoding="utf-8") as file:
            if self.kept:
                writer = csv.DictWriter(file, self.kept[0])
                writer.writeheader()
                writer.writerows(self.kept)


def _rows_in(path, needs):
    """The rows of a table of numbers without a last one that a crash has cut; None of a damaged file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        ended = [line for line in lines if line.endswith("\n")]  # a number can be cut in its middle
        reader = csv.DictReader(ended)
        rows = list(reader)
        whole = needs <= set(reader.fieldnames or needs) and all(map(_is_whole, rows))
    except (ValueError, csv.Error):  # bytes that are no UTF-8 are a ValueError too
        return None
    return rows if whole else None


def _is_whole(row):
    """As many numbers as the header has names; raises ValueError for what is no number."""
    if None in row or None in row.values() or not row["step"].isdecimal():
        return False
    return all(isinstance(float(value), float) for value in row.values())


class Log:
    """The log of one run in its folder: train.csv, evaluation.csv, and events for TensorBoard.

    Args:
        say: takes (text, progress=False).
        state: that of the checkpoint from which the run goes on, so that the rows to come are those of a run that was
            never stopped.
        devices: of several processes the chief writes; what each counts is added up.
        best: the number that every evaluation has, None without evaluations.
    """

    def __init__(self, folder, *, first_step, total_steps, batch_size, say, state=None, devices=ONE, best=None):
        folder = pathlib.Path(folder)
        self.total_steps, self.batch_size, self.say = total_steps, batch_size, say
        self._train = Table(folder / "train.csv", first_step, devices.chief, needs=("loss", "seconds"))
        self._evaluation = Table(folder / "evaluation.csv", first_step, devices.chief, needs=(best,) if best else ())
        self._event_folder, self._events = folder / "tensorboard", None
        if devices.chief:
            with full_disk_named(self._event_folder):
                self._events = EventFileWriter(str(self._event_folder))
        kept, state = self._train.kept, state or {}
        self.losses = [(int(row["step"]), float(row["loss"])) for row in kept]  # mean loss since the last line
        self._window, self._newest = list(state.get("window", ())), None  # losses since then; the report after them
        self._devices, self._substituted = devices, state.get("substituted", 0) if devices.chief else 0
        self._seconds_before = float(kept[-1]["seconds"]) if kept else 0.0
        self._opened = time.perf_counter()
        self._start = self._last = (first_step, time.perf_counter())
        self._first_step = first_step

    def add(self, report):
        """Takes the report of a step, without waiting for the device; says how long the first one took."""
        self._window.append(report["loss"])
        self._newest = report
        if self._start[0] == self._first_step:
            as_number(report["loss"])
            now = time.perf_counter()  # compilation is in it, so it says nothing about those that follow
            self.say(f"first step took {now - self._start[1]:.1f} s", progress=True)
            self._start = self._last = (self._first_step + 1, now)

    def streak(self):
        """The length of the streak of skipped steps; waits for the device."""
        return int(as_number(self._newest["streak"]))

    def row(self, step, rate):
        """Writes the mean over the losses since the last row; returns the line to say about it."""
        losses = [as_number(loss) for loss in self._window]
        self._window = []
        norm, skipped = (as_number(self._newest[key]) for key in ("grad_norm", "skipped"))
        speed, left = self._speed(step, time.perf_counter())
        finite = [loss for loss in losses if math.isfinite(loss)]
        loss = sum(finite) / len(finite) if finite else losses[-1]
        self.losses.append((step, loss))
        row = {"step": step, "lr": float(rate), "loss": loss, "grad_norm": norm, "skipped": int(skipped)}
        row |= {"images_per_s": round(speed, 1), "seconds": round(self.seconds(), 1), "seconds_left": round(left, 1)}
        self._train.write(row)
        self._event(step, row)
        width = len(str(self.total_steps))
        text = f"step {step:{width}}/{self.total_steps}  loss {loss:.4f}  lr {rate:.2e}"
        pace = f"  {speed:.0f} images/s  {duration(left)} left" if speed else ""
        self._last = (step, time.perf_counter())
        return text + pace + (f"  skipped {row['skipped']}" if row["skipped"] else "")

    def evaluation(self, step, numbers):
        self._evaluation.write({"step": step, **numbers})
        self._event(step, numbers)
        self.say(f"evaluation after step {step}: {in_words(numbers)}")

    def evaluated(self, step):
        """The numbers of the evaluation after this step that was kept, {} without one."""
        rows = [row for row in self._evaluation.kept if int(row["step"]) == step]
        return {key: float(value) for key, value in rows[-1].items() if key != "step"} if rows else {}

    def state(self):
        """What a checkpoint keeps for the log of the run that goes on from it; each process must ask."""
        window = [as_number(loss) for loss in self._window]
        return {"window": window, "substituted": self.substituted()}

    def substituted(self):
        """How often another picture took the place of one, in all processes; each of them must ask."""
        return int(self._devices.sum(self._substituted))

    def without_substitutes(self, batches):
        """The batches without `substituted`, which is counted."""
        for rows in batches:
            self._substituted += int(rows.pop("substituted").sum())
            yield rows

    def results(self):
        """first_loss, loss, losses, seconds, substituted; says what was left out. Each process must ask."""
        substituted = self.substituted()
        if substituted:
            self.say(f"{substituted} times another picture took the place of one that cannot be read (named above)")
        ends = {"first_loss": self.losses[0][1], "loss": self.losses[-1][1]} if self.losses else {}
        seconds = round(self.seconds(), 1)
        return {**ends, "seconds": seconds, "losses": self.losses, "substituted": substituted}

    def seconds(self):
        """Since the run began, without the time between its sessions."""
        return self._seconds_before + time.perf_counter() - self._opened

    def pause(self):
        """Takes what was not training (evaluating, saving) out of images per second and time left."""
        now = time.perf_counter()
        self._start = (self._start[0], self._start[1] + now - self._last[1])
        self._last = (self._last[0], now)

    def close(self):
        if self._events:
            with full_disk_named(self._event_folder):
                self._events.close()

    def _speed(self, step, now):
        """(images a second since the last line, seconds left); 0, 0 right after the first step."""
        steps, (since, then) = step - self._last[0], self._start
        if not steps:
            return 0.0, 0.0
        speed = steps * self.batch_size / max(1e-9, now - self._last[1])
        each = (now - then) / max(1, step - since)
        return speed, each * (self.total_steps - step)

    def _event(self, step, row):
        if not self._events:
            return
        values = [Summary.Value(tag=key, simple_value=value) for key, value in row.items() if key != "step"]
        with full_disk_named(self._event_folder):  # a thread of its own writes, so it comes with a later event
            self._events.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
