"""What is the same for every program: folder, seed, plan, step, log, loop, checkpoints, saving."""

import dataclasses
import random
from collections.abc import Callable, Mapping

import keras
import numpy as np

from training.checkpoints import Checkpoints, differing, holds_whole
from training.data import training_batches
from training.devices import open_devices, require_divisible
from training.fields import module_line, require
from training.logs import Log, Terminal, in_words
from training.loop import Plan, Stopped, train
from training.optimizers import OPTIMIZERS, addressed
from training.steps import make_step
from training.workdir import CHECKPOINTS, RECIPE, RESULTS, Workdir, folder_of, read_record, read_results


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a program trains: values and plain functions.

    Args:
        model: a built keras model.
        rules: the table of weight rules for it.
        sample_losses: (model, batch) -> (B,).
        source: the pictures.
        example: (rng, picture, target) -> dict of arrays.
        mix: (rng, batch) -> batch, or None.
        evaluate: (weights or None) -> {"name": number}, of the model, or with these in place of its trained weights;
            None without labels.
        best: with `evaluate`, the name of the number that says which weights are better; the larger, the better.
        save: (Workdir) -> {"what": path}; writes what is left at the end.
        facts: further results.
        next_lines: (results) -> lines on what to do next.
    """

    model: keras.Model
    rules: tuple
    sample_losses: Callable
    source: object
    example: Callable
    mix: Callable | None = None
    evaluate: Callable | None = None
    best: str | None = None
    save: Callable
    facts: Mapping = dataclasses.field(default_factory=dict)
    next_lines: Callable


def run(prepare, config, workdir, data, resume=False, say=None):
    """Trains what `prepare(config, data, say, devices)` returns, a Task, to the end of its plan.

    Args:
        workdir: a folder of its own; with `resume` that of a run to go on with.
        say: takes (text, progress=False); prints by default.
    Returns:
        folder, what was saved, steps, loss, first_loss, seconds, losses as [(step, loss)], the numbers of the last
        evaluation, the task's facts, and `next` lines; of several processes only the chief's knows them: {} else.
    """
    say = Terminal() if say is None else say
    devices = open_devices(config, say)
    try:
        return _run(devices, prepare, config, workdir, data, resume, say if devices.chief else _silent)
    except Stopped:  # so do the other processes, after the same step
        raise
    except BaseException:  # a second Ctrl-C too
        devices.fail()
        raise


def _run(devices, prepare, config, workdir, data, resume, say):
    folder = Workdir(workdir, type(config).__name__.lower(), config, data, resume, devices.chief)
    with devices.naming_a_lost_process():
        # at once, while all are here: JAX gives the first one to ask 30 seconds, and only that one
        devices.require_same("recipe, data and --resume", folder.fingerprint)
        require_divisible(config, devices)
        seed_initial_weights(config.seed)
        with devices.scope():
            task = prepare(_without_init(config, folder, devices) if resume else config, data, say, devices)
        plan = Plan.of(config, task.source.count)  # refuses too large a batch before the folder is taken
        with folder:
            results = _results(config, task, plan, folder, devices, resume, say)
            devices.sum(0)  # nobody leaves before the chief has written everything
            return results if devices.chief else {}


def _without_init(config, folder, devices):
    """The config of a run that goes on: a checkpoint has every weight, and what it began from may be gone."""
    if getattr(config, "init", None) is None:
        return config
    begun = devices.of_chief(int(devices.chief and holds_whole(folder.path / CHECKPOINTS)))
    return dataclasses.replace(config, init=None) if begun else config


def once(prepare, config, workdir, data, say):
    """The results of a run: those it left, or those it makes, going on from its last checkpoint.

    Raises:
        ValueError: the folder holds the results of another recipe, or of another backend.
    """
    folder = folder_of(workdir)
    if not (folder / RESULTS).exists():
        return run(prepare, config, folder, data, (folder / RECIPE).exists(), say)
    kept = read_record(folder / RECIPE)
    same = not differing(kept["recipe"], dataclasses.asdict(config), may_differ=()) and kept["data"] == data
    same = same and kept["versions"].get("backend") == keras.backend.backend()
    rule = "--workdir must be a new folder or one of the same settings and backend"
    require(same, rule, str(folder), "Try another --workdir.")
    say(f"  {folder} is complete: taken as it is")
    return read_results(folder / RESULTS)


def _silent(text, progress=False):
    """In place of `say` where another process says it."""


def _results(config, task, plan, folder, devices, resume, say):
    decay = averaging(config.ema, plan.total_steps)
    with devices.scope():
        step = make_step_of(config, task, decay, devices)
    say(_description(config, task, plan, devices))
    if decay != config.ema:
        say(f"average of weights: decay {decay:.4g} for {plan.total_steps} steps, in place of {config.ema}")
    states = folder.path / CHECKPOINTS
    checkpoints = Checkpoints(
        states, step.variables(), meta=folder.meta, count=config.keep_checkpoints, devices=devices
    )
    log, numbers = _trained(config, task, plan, step, checkpoints, folder, resume, say)
    numbers = _choose(config, task, step, checkpoints, numbers, say)
    results = {"steps": plan.total_steps, **log.results(), **numbers, **task.facts, "folder": str(folder.path)}
    results |= {what: str(where) for what, where in task.save(folder).items()}
    curves = module_line("tensorboard.main", "--logdir", folder.path / "tensorboard")
    results["next"] = [*task.next_lines(results), curves]
    folder.write_results(results)
    return results


def _trained(config, task, plan, step, checkpoints, folder, resume, say):
    """Trains from the newest checkpoint to the end; (the log, the numbers of the last evaluation)."""
    newest = checkpoints.restore() if resume else None
    # each may have read another file: weights to begin with, or a checkpoint, where a folder is not shared
    step.devices.require_same_values("weights and state to begin with", step.variables().values())
    first = newest["step"] if newest else 0
    if first > plan.total_steps:
        raise ValueError(
            f"epochs and steps must not end before what is done, {first} steps. Received: {plan.total_steps} in all."
        )
    if resume:
        folder.write_recipe()
        begun = f"after step {first} of {plan.total_steps}" if newest else "at step 0: there is no whole checkpoint"
        say(f"resuming {begun}")
        before, now = newest["versions"]["backend"] if newest else "", keras.backend.backend()
        if before not in ("", now):
            say(f"it ran on {before}: {now} goes on with the same state and pictures, drop path draws as {now} does")
    sizes = {"first_step": first, "total_steps": plan.total_steps, "batch_size": plan.batch_size}
    state = newest and newest.get("log")
    log = Log(folder.path, **sizes, say=say, state=state, devices=step.devices, best=task.best)
    numbers = log.evaluated(first)

    def evaluate(done):
        every = config.evaluate_every * plan.epoch_steps
        if done == plan.total_steps or (every and done % every == 0):
            numbers.update(_numbers(task, step))
            checkpoints.keep_best(done, _worth(task, numbers), numbers)  # first: what has its row is not done again
            log.evaluation(done, numbers)

    try:
        if task.evaluate and first and step.devices.of_chief(not numbers):  # each may have read it at another moment
            step.store(step.start())  # on several devices from here on: else each batch would take the weights there
            evaluate(first)  # the run was killed between a checkpoint and its evaluation
        if first < plan.total_steps:
            batches = log.without_substitutes(_batches(config, task, plan, first, step.devices))
            looks = evaluate if task.evaluate else None
            train(plan, step, batches, checkpoints, log, first_step=first, evaluate=looks)
    finally:
        log.close()
    return log, numbers


def _choose(config, task, step, checkpoints, numbers, say):
    """Puts the weights to save into the model and says which they are; their numbers."""
    best = checkpoints.restore_best() if task.evaluate and config.choose == "best" else None
    if best:
        numbers = best["numbers"]
        say(f"the best weights are those after step {best['step']}")
    elif task.evaluate and config.choose == "best":
        say("there is no checkpoint of the best weights: the last ones are taken")
    if step.average:
        averaged = not numbers or numbers[f"{task.best}_average"] >= numbers[task.best]
        say(f"saved: the {'average of weights' if averaged else 'weights themselves, better than their average'}")
        if averaged:
            for variable, value in zip(task.model.trainable_variables, step.average, strict=True):
                variable.assign(value)
    if numbers:
        say(in_words(numbers))
    return numbers


def seed_initial_weights(seed):
    """Keras draws the seeds of its initializers from Python's generator.

    `keras.utils.set_random_seed` would import TensorFlow on JAX and torch too: seconds, and memory of a GPU.
    """
    random.seed(seed)
    np.random.seed(seed)


def averaging(decay, total_steps):
    """The decay of the average of weights, which reaches over a tenth of the run at most.

    A decay of 0.9999 remembers 10,000 steps; after a run of some hundred it would hardly have left the start.
    """
    return None if decay is None else min(decay, max(0.0, 1 - 10 / total_steps))


def _worth(task, numbers):
    """What the better of weights and average reaches."""
    return max(number for name, number in numbers.items() if name in (task.best, f"{task.best}_average"))


def make_step_of(config, task, decay, devices):
    knobs = {key: getattr(config, key) for key in ("weight_decay", "beta_1", "beta_2", "epsilon")}
    rules = addressed(task.rules, task.model)
    optimizer = OPTIMIZERS[config.optimizer](config.peak_lr, **knobs, rules=rules)
    options = {"accumulation": config.accumulation, "clip_norm": config.clip_norm, "jit": config.jit}
    options |= {"scaled_loss": config.dtype == "mixed_float16", "devices": devices}
    return make_step(task.model, optimizer, task.sample_losses, ema_decay=decay, **options)


def _description(config, task, plan, devices):
    count = sum(int(np.prod(v.shape)) for v in task.model.trainable_variables)
    images = f"{task.source.count:,} images of {task.source.name} at {' x '.join(map(str, config.image_size))} pixels"
    updates = f"{plan.total_steps} steps of {plan.batch_size} ({plan.epoch_steps} an epoch)"
    shared = f" on {devices.count} devices of {devices.processes} process(es)" if devices.count > 1 else ""
    return f"{count:,} weights, {images}, {updates}{shared}, peak learning rate {config.peak_lr:.3g}"


def _batches(config, task, plan, first, devices):
    steps = {"first_step": first, "steps": plan.total_steps - first, "mix": task.mix}
    workers = {"workers": config.workers, "processes": config.worker_processes, "share": devices.share}
    return training_batches(task.source, task.example, batch_size=plan.batch_size, seed=config.seed, **steps, **workers)


def _numbers(task, step):
    """The task's numbers, and those of the average of weights under names of their own."""
    numbers = dict(task.evaluate(None))
    if step.average:
        numbers |= {f"{name}_average": number for name, number in task.evaluate(step.average).items()}
    return {name: float(number) for name, number in numbers.items()}  # numpy's own are no JSON
