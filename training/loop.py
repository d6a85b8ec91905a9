"""The training loop, the same for pre-training and fine-tuning, on every backend."""

import dataclasses
import functools
import signal
import threading
from collections.abc import Callable

from training.checkpoints import NotFinite
from training.optimizers import learning_rate


class Stopped(Exception):
    """The run was asked to stop by a signal, and has saved.

    Args:
        number: of the signal.
    """

    def __init__(self, text, number):
        super().__init__(text)
        self.exit_code = 128 + number  # what a shell reports of a program that a signal ended


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the loop has to know of a recipe."""

    total_steps: int
    epoch_steps: int
    batch_size: int
    rate: Callable[[int], float]
    log_every: int = 20
    max_bad_steps: int = 10

    @classmethod
    def of(cls, config, images):
        """The plan of a config for this many images."""
        total, warmup = config.total_steps(images), config.warmup_steps(images)
        rates = {"peak": config.peak_lr, "floor": config.min_lr, "total_steps": total, "warmup_steps": warmup}
        rate = functools.partial(learning_rate, **rates, **config.schedule(images))
        copied = {key: getattr(config, key) for key in ("batch_size", "log_every", "max_bad_steps")}
        return cls(total_steps=total, epoch_steps=config.epoch_steps(images), rate=rate, **copied)


def train(plan, step, batches, checkpoints, log, *, first_step=0, evaluate=None):
    """Takes the model of `step` from `first_step` to the end of the plan, with a checkpoint after each epoch.

    Args:
        step: from `make_step`.
        batches: the batches of the steps from `first_step` on, as dicts of arrays.
        evaluate: called with the number of steps done, after each epoch and at the end.
    Raises:
        Stopped: on Ctrl-C, SIGTERM or SIGHUP, after saving.
        NotFinite: after too many bad steps in a row, or for weights that are not finite; the last good checkpoint
            stays.
    """
    state, done = step.start(), first_step
    with StopRequest() as stop:
        for rows in batches:
            rate = plan.rate(done)
            state, report = step.run(state, step.put(rows), rate)  # a step that is not finite changes no weight
            log.add(report)
            done += 1
            last = done == plan.total_steps
            epoch_ends = last or done % plan.epoch_steps == 0
            row_is_due = epoch_ends or done % plan.log_every == 0 or done == 1
            asked = _asked(stop, step.devices, row_is_due)
            if row_is_due or asked:
                streak = log.streak()
                line = log.row(done, rate) if row_is_due else None
                if (epoch_ends or asked) and not streak:  # finite weights can be ruined: keep those before the streak
                    step.store(state)
                    _save(checkpoints, done, plan, log)
                if line:  # after the save: what hears it may have ended by the same signal
                    log.say(line, progress=not last)
                if streak >= plan.max_bad_steps or (streak and last):
                    raise NotFinite(_bad_news(streak, done, rate, checkpoints))
                if asked and not streak and not last:  # a streak comes to its end first, or to its limit
                    step.devices.sum(0)  # nobody leaves before the chief has saved
                    raise Stopped(f"stopped after step {done}. Newest checkpoint: {checkpoints.last()}", asked)
                if epoch_ends and evaluate is not None:
                    step.store(state)
                    evaluate(done)
                log.pause()
    step.store(state)


def _asked(stop, devices, waits):
    """The signal that asks to stop, read once a step: it may change at any moment.

    Several processes stop after the same step: they compare notes where they wait for the device as it is.
    """
    if devices.processes == 1:
        return stop.asked
    return int(devices.largest(stop.asked)) if waits else 0


def _save(checkpoints, done, plan, log):
    try:
        checkpoints.save(done, done * plan.batch_size, log=log.state())
    except NotFinite as error:
        raise NotFinite(f"after step {done} {error}; {_kept(checkpoints)}. {ADVICE}") from None


ADVICE = "Try a lower --set base_lr, a longer --set warmup_epochs or --set clip_norm=1."


def _kept(checkpoints):
    where = checkpoints.last()
    return f"last good checkpoint: {where}" if where else "there is no checkpoint yet"


def _bad_news(streak, done, rate, checkpoints):
    return (
        f"loss or gradients were not finite in {streak} steps in a row, up to step {done} (learning rate {rate:.3g}); "
        f"{_kept(checkpoints)}. {ADVICE}"
    )


SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
REPEATED = [getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name)]


class StopRequest:
    """Within it, a signal of SIGNALS asks the loop to save and stop after the step; a second one has its usual effect.

    One of REPEATED never has it: a terminal that closes may send it twice. `asked` is the first number, 0 before.
    """

    def __init__(self):
        self.asked = 0
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # Python hears signals nowhere else
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a job in the background of a script
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_):
        self._restore(self._before)

    def _ask(self, number, frame):
        self.asked = self.asked or int(number)
        self._restore(self._before.keys() - REPEATED)

    def _restore(self, numbers):
        for number in list(numbers):
            signal.signal(number, self._before.pop(number))
