"""One training session: what pre-training and fine-tuning have in common around the loop."""

import dataclasses
import pathlib

import keras
import numpy as np

from training.checkpoints import Checkpoints
from training.data import as_numpy, evaluation_batches, iterate, training_batches
from training.logs import Log, duration
from training.loop import Plan, train
from training.optimizers import AdamW, addressed
from training.steps import make_step


@dataclasses.dataclass
class Session:
    """Everything that trains one model; `run` does it and returns what there is to tell.

    Args:
        config: a Pretrain or a Finetune.
        workdir: an opened Workdir.
        model: a built keras model.
        rules: the table of weight rules for it.
        sample_losses: (model, batch) -> (B,).
        mask: (patch size, mask ratio), or None.
        step: the step of an earlier run of this model, whose compiled functions are used again.
        resume: go on from the newest checkpoint.
        evaluate: Step -> numbers for the log; called each `evaluate_every` epochs and at the end.
    """

    config: object
    workdir: object
    source: object
    model: keras.Model
    rules: tuple
    sample_losses: object
    mask: tuple | None = None
    evaluate: object = None
    ema: float | None = None
    step: object = None
    resume: bool = False
    say: object = print

    def __post_init__(self):
        config = self.config
        self.numbers = {}  # of the last evaluation
        self.plan = Plan.of(config, self.source.count)
        if self.step is None:
            self.step = self._new_step()
        else:
            self.step.restart()
        folder, variables = self.workdir.path / "checkpoints", self.step.variables()
        self.checkpoints = Checkpoints(folder, variables, meta=self.workdir.meta, count=config.keep_checkpoints)

    def _new_step(self):
        config = self.config
        adamw = {"weight_decay": config.weight_decay, "beta_1": config.beta_1, "beta_2": config.beta_2}
        optimizer = AdamW(config.peak_lr, **adamw, epsilon=config.epsilon, rules=addressed(self.rules, self.model))
        options = {"accumulation": config.accumulation, "clip_norm": config.clip_norm, "jit": config.jit}
        return make_step(self.model, optimizer, self.sample_losses, ema_decay=self.ema, **options)

    def run(self):
        """Trains to the end of the plan. Returns steps, loss, first_loss, seconds and losses as [(step, loss)]."""
        plan = self.plan
        meta = self.checkpoints.restore() if self.resume else None
        first = meta["step"] if meta else 0
        if self.resume:
            self.say(f"resuming after step {first} of {plan.total_steps}")
        sizes = {"total_steps": plan.total_steps, "batch_size": plan.batch_size}
        log = Log(self.workdir.path, first_step=first, say=self.say, **sizes)
        try:
            if first < plan.total_steps:
                evaluate = self._evaluation(log) if self.evaluate else None
                train(plan, self.step, self._batches(first), self.checkpoints, log, first_step=first, evaluate=evaluate)
        finally:
            log.close()
        if self.evaluate and not self.numbers:  # the run had ended before it was resumed
            self.numbers = self.evaluate(self.step)
        seconds = log.seconds()
        if getattr(self.source, "skipped", 0):
            self.say(f"left out {self.source.skipped} images that cannot be read (named above)")
        ends = {"first_loss": log.losses[0][1], "loss": log.losses[-1][1]} if log.losses else {}
        return {"steps": plan.total_steps, **ends, **self.numbers, "seconds": round(seconds, 1), "losses": log.losses}

    def describe(self):
        """One line on what is going to be trained."""
        count = sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)
        plan, config = self.plan, self.config
        updates = f"{plan.total_steps} steps of {plan.batch_size} ({plan.epoch_steps} an epoch)"
        images = f"{self.source.count:,} images of {self.source.name}"
        return f"{count:,} weights, {images}, {updates}, peak learning rate {config.peak_lr:.3g}"

    def _batches(self, first):
        config, plan = self.config, self.plan
        names = ("batch_size", "image_size", "seed", "crop", "crop_scale", "flip")
        options = {name: getattr(config, name) for name in names}
        steps = {"first_step": first, "steps": plan.total_steps - first}
        return host_batches(training_batches(self.source, **options, **steps, mask=self.mask))

    def _evaluation(self, log):
        every = self.config.evaluate_every * self.plan.epoch_steps

        def evaluate(done):
            if done == self.plan.total_steps or (every and done % every == 0):
                self.numbers = self.evaluate(self.step)
                log.evaluation(done, self.numbers)

        return evaluate


def host_batches(dataset):
    """The batches as the running backend takes them."""
    return iterate(dataset) if keras.backend.backend() == "tensorflow" else as_numpy(dataset)


def top_1(predict, source, *, batch_size, image_size, crop_fraction, weights=None):
    """Percent of the source's pictures whose label has the largest logit."""
    right = total = 0.0
    sizes = {"batch_size": min(batch_size, source.count), "image_size": image_size, "crop_fraction": crop_fraction}
    for rows in host_batches(evaluation_batches(source, **sizes)):
        chosen = np.argmax(keras.ops.convert_to_numpy(predict(rows["images"], weights)), axis=-1)
        weight = np.asarray(rows["weight"])
        right += float(np.sum((chosen == np.asarray(rows["labels"])) * weight))
        total += float(np.sum(weight))
    return 100.0 * right / total


def farewell(say, results, next_lines):
    """Says where everything is and what to try next."""
    for key in ("model", "weights", "folder"):
        if key in results:
            say(f"{key:>8}: {pathlib.Path(results[key])}")
    say(f"    time: {duration(results['seconds'])}")
    say("next:")
    for line in next_lines:
        say(f"  {line}")
