"""What is the same for every program: folder, seed, plan, step, log, loop, checkpoints, saving."""

import dataclasses
from collections.abc import Callable, Mapping

import keras
import numpy as np

from training.checkpoints import Checkpoints
from training.data import training_batches
from training.logs import Log, Terminal
from training.loop import Plan, train
from training.optimizers import AdamW, addressed
from training.recipes import require_parts
from training.steps import make_step
from training.workdir import Workdir


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
    save: Callable
    facts: Mapping = dataclasses.field(default_factory=dict)
    next_lines: Callable


def run(prepare, config, workdir, data, resume=False, say=None):
    """Trains what `prepare(config, data, say)` returns, a Task, to the end of its plan.

    Args:
        workdir: a folder of its own; with `resume` that of a run to go on with.
        say: takes (text, progress=False); prints by default.
    Returns:
        folder, what was saved, steps, loss, first_loss, seconds, losses as [(step, loss)], the numbers of the last
        evaluation, the task's facts, and `next` lines.
    """
    say = Terminal() if say is None else say
    require_parts(config)
    folder = Workdir(workdir, type(config).__name__.lower(), config, data, resume)
    keras.utils.set_random_seed(config.seed)
    task = prepare(config, data, say)
    plan = Plan.of(config, task.source.count)  # refuses too large a batch before the folder is taken
    with folder:
        return _run(config, task, plan, folder, resume, say)


def _run(config, task, plan, folder, resume, say):
    path = folder.path
    step = _step(config, task)
    say(_description(config, task, plan))
    checkpoints = Checkpoints(path / "checkpoints", step.variables(), meta=folder.meta, count=config.keep_checkpoints)
    newest = checkpoints.restore() if resume else None
    first = newest["step"] if newest else 0
    if resume:
        begun = f"after step {first} of {plan.total_steps}" if newest else "at step 0: there is no whole checkpoint"
        say(f"resuming {begun}")
    sizes = {"first_step": first, "total_steps": plan.total_steps, "batch_size": plan.batch_size}
    log = Log(path, **sizes, say=say, state=newest and newest.get("log"))
    numbers = log.evaluated(first)

    def evaluate(done):
        every = config.evaluate_every * plan.epoch_steps
        if done == plan.total_steps or (every and done % every == 0):
            numbers.update(_numbers(task, step))
            log.evaluation(done, numbers)

    try:
        if task.evaluate and first and not numbers:
            evaluate(first)  # the run was killed between a checkpoint and its evaluation
        if first < plan.total_steps:
            batches = log.without_substitutes(_batches(config, task, plan, first))
            looks = evaluate if task.evaluate else None
            train(plan, step, batches, checkpoints, log, first_step=first, evaluate=looks)
    finally:
        log.close()
    results = {"steps": plan.total_steps, **log.results(), **numbers, **task.facts, "folder": str(path)}
    for variable, value in zip(task.model.trainable_variables, step.average, strict=bool(step.average)):
        variable.assign(value)  # it is what gets saved, as in the published files
    results |= {what: str(where) for what, where in task.save(folder).items()}
    results["next"] = [*task.next_lines(results), f"tensorboard --logdir {path / 'tensorboard'}"]
    folder.write_results(results)
    return results


def _step(config, task):
    adamw = {"weight_decay": config.weight_decay, "beta_1": config.beta_1, "beta_2": config.beta_2}
    rules = addressed(task.rules, task.model)
    optimizer = AdamW(config.peak_lr, **adamw, epsilon=config.epsilon, rules=rules)
    options = {"accumulation": config.accumulation, "clip_norm": config.clip_norm, "jit": config.jit}
    return make_step(task.model, optimizer, task.sample_losses, ema_decay=config.ema, **options)


def _description(config, task, plan):
    count = sum(int(np.prod(v.shape)) for v in task.model.trainable_variables)
    updates = f"{plan.total_steps} steps of {plan.batch_size} ({plan.epoch_steps} an epoch)"
    images = f"{task.source.count:,} images of {task.source.name}"
    return f"{count:,} weights, {images}, {updates}, peak learning rate {config.peak_lr:.3g}"


def _batches(config, task, plan, first):
    steps = {"first_step": first, "steps": plan.total_steps - first, "mix": task.mix}
    workers = {"workers": config.workers, "processes": config.worker_processes}
    return training_batches(task.source, task.example, batch_size=plan.batch_size, seed=config.seed, **steps, **workers)


def _numbers(task, step):
    """The task's numbers, and those of the average of weights under names of their own."""
    numbers = task.evaluate(None)
    if step.average:
        numbers = numbers | {f"{name}_average": number for name, number in task.evaluate(step.average).items()}
    return numbers
