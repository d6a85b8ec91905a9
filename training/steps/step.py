"""The training step: its one order, and what every backend shares. A backend's file has what only it can say."""

import keras
import numpy as np
from keras import ops

FIRST_SCALE = 2**15  # of the loss, for float16
SCALE_STEPS = 2000  # good ones in a row double it
APART = 0x9E3779B9  # between the seeds of devices: 2**32 / the golden ratio, so that no two seeds of a model meet
SEEDS = "seed_generator_state"  # what Keras calls the state of a generator: a seed and a counter


class BaseStep:
    """One optimizer step over one batch.

    start() -> state; run(state, batch, rate) -> (state, report); store(state) puts the values into the Keras variables;
    put(rows) -> batch. `report` has loss, grad_norm, applied, skipped (in all) and streak (without a break), still on
    the device. On TensorFlow and torch the variables are the state, so state is None; on JAX `run` consumes the state
    it is given, and the model may be read only after `store`.

    A gradient or a loss that is not finite changes nothing but the counters. With a `scaled_loss`, for float16, it also
    halves the scale, and counts as bad only where the scale cannot become smaller.

    A backend has `gradients` of a part of the batch, `choose` between two outcomes, `reduce` where devices share the
    batch, `fused` updates of optimizers, and its way to `run` the order, `one`.
    """

    def __init__(
        self, model, optimizer, sample_losses, *, accumulation, clip_norm, ema_decay, scaled_loss, jit, devices
    ):
        optimizer.build(model.trainable_variables)
        self.model, self.optimizer, self.sample_losses = model, optimizer, sample_losses
        self.accumulation, self.clip_norm, self.ema_decay, self.jit = accumulation, clip_norm, ema_decay, jit
        self.devices = devices
        values = [ops.convert_to_numpy(v) for v in model.trainable_variables] if ema_decay is not None else []
        self.average = [keras.Variable(value, trainable=False, name="average") for value in values]
        counters = [_number(0, name) for name in ("skipped", "streak")]
        scale = [_number(FIRST_SCALE, "scale", "float32"), _number(0, "good")] if scaled_loss else []
        self.groups = {
            "weights": list(model.trainable_variables),
            "fixed": list(model.non_trainable_variables),  # the seeds of drop path are here
            **optimizer.groups,
            "average": self.average,
            "counters": [optimizer.iterations, *counters],
            "scale": scale,  # of the loss, and the good steps since it last changed
        }

    # The order of a step

    def one(self, values, batch, rate):
        """{group: values}, batch, rate -> (the values after the step, report)."""
        loss, fixed, gradients = self.accumulate(values, batch)
        loss, fixed, gradients = self.reduce(loss, fixed, gradients)
        loss, gradients = self.unscale(loss, gradients, values["scale"])
        norm = self.norm(gradients)
        applied = ops.logical_and(ops.isfinite(norm), ops.isfinite(loss))
        gradients = self.clip(gradients, norm)
        values = self.choose(
            applied, values, lambda: self.updated(values, fixed, gradients, rate), lambda: self.skipped(values)
        )
        _, skipped, streak = values["counters"]
        return values, {"loss": loss, "grad_norm": norm, "applied": applied, "skipped": skipped, "streak": streak}

    def accumulate(self, values, batch):
        """(loss, fixed, gradients) of a batch, in equal parts one after the other."""
        (size,) = {rows.shape[0] for rows in batch.values()}
        if size % self.accumulation:
            raise ValueError(f"accumulation must divide the batch of {size}. Received: {self.accumulation!r}.")
        weights, fixed = values["weights"], values["fixed"]
        size = float(size * self.shares)
        if values["scale"]:
            size = size / ops.convert_to_tensor(values["scale"][0])
        if self.accumulation == 1:
            return self.gradients(weights, fixed, batch, size)
        parts = {key: self.parts(rows) for key, rows in batch.items()}

        def work_off(done, part):
            loss, gradients = done[0], done[2]
            part_loss, fixed, part_gradients = self.gradients(weights, done[1], part, size)
            return loss + part_loss, fixed, [a + b for a, b in zip(gradients, part_gradients, strict=True)]

        return self.fold(work_off, (ops.zeros(()), fixed, [ops.zeros_like(w) for w in weights]), parts)

    def parts(self, rows):
        """(B, ...) -> (accumulation, B / accumulation, ...)"""
        return ops.reshape(rows, (self.accumulation, -1, *rows.shape[1:]))

    def fold(self, work_off, done, parts):
        for part in range(self.accumulation):
            done = work_off(done, {key: rows[part] for key, rows in parts.items()})
        return done

    def with_own_draws(self, device, fixed, work):
        """`work(fixed)`, which returns (loss, fixed, gradients), with random numbers of the device's own.

        Those of device 0 are what one device alone draws. The seeds come back as all devices have them, counted on.
        """

        def moved(values, change):
            names = (v.name for v in self.groups["fixed"])
            pairs = zip(values, names, strict=True)
            return [change(x, _apart(device, x.dtype)) if name == SEEDS else x for x, name in pairs]

        loss, fixed, gradients = work(moved(fixed, ops.add))
        return loss, moved(fixed, ops.subtract), gradients

    shares = 1  # so many batches as `accumulate` sees make the global one

    def reduce(self, loss, fixed, gradients):
        """The sums over all devices, and the means of fixed values, where each has its own."""
        return loss, fixed, gradients

    def unscale(self, loss, gradients, scale):
        """Takes the scale of the loss off."""
        if not scale:
            return loss, gradients
        factor = 1.0 / ops.convert_to_tensor(scale[0])
        return loss * factor, self.scaled(gradients, factor)

    def norm(self, gradients):
        return ops.sqrt(sum(ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients))

    def clip(self, gradients, norm):
        if self.clip_norm is None:
            return gradients
        return self.scaled(gradients, ops.minimum(1.0, self.clip_norm / (norm + 1e-6)))  # torch's clip_grad_norm_

    def updated(self, values, fixed, gradients, rate):
        """{group: new values} of a step that is applied: decay and optimizer - average - counters."""
        new = {"fixed": fixed, **self.optimized(values, gradients, rate)}
        if values["average"]:
            new["average"] = self.averaged(values["average"], new["weights"])
        if values["scale"]:
            scale, good = values["scale"]
            grows = good + 1 == SCALE_STEPS
            new["scale"] = [ops.where(grows, scale * 2.0, scale), ops.where(grows, ops.zeros_like(good), good + 1)]
        iterations, skipped, streak = values["counters"]
        return {**new, "counters": [iterations + 1, skipped, ops.zeros_like(streak)]}

    def skipped(self, values):
        """{group: new values} of a step that is not applied."""
        iterations, skipped, streak = values["counters"]
        if not values["scale"]:
            return {"counters": [iterations, skipped + 1, streak + 1]}
        scale, good = values["scale"]
        return {
            "counters": [iterations, skipped + 1, streak + ops.cast(scale <= 1.0, "int32")],
            "scale": [ops.maximum(scale / 2.0, 1.0), ops.zeros_like(good)],
        }

    fused = {}  # {class of optimizer: (step, values, gradients, rate) -> what its `updated` gives, in place}

    def optimized(self, values, gradients, rate):
        """{group: new values} of the weights and the optimizer's groups."""
        fused = self.fused.get(type(self.optimizer))
        if fused:
            return fused(self, values, gradients, rate)
        names = ("weights", *self.optimizer.groups)
        old = (values[name] for name in names)
        new = self.optimizer.updated(*old, gradients, values["counters"][0], rate)
        return dict(zip(names, new, strict=True))

    def scaled(self, gradients, factor):
        return [g * ops.cast(factor, g.dtype) for g in gradients]

    def averaged(self, average, weights):
        return [a + (w - a) * (1.0 - self.ema_decay) for a, w in zip(average, weights, strict=True)]

    def loss(self, weights, fixed, batch, size):
        """(sum of the sample losses / size, the fixed values after it), as a function of the given values."""
        variables = self.groups["weights"] + self.groups["fixed"]
        with keras.StatelessScope(state_mapping=zip(variables, [*weights, *fixed], strict=True)) as scope:
            losses = self.sample_losses(self.model, batch)  # (B,)
        return ops.sum(losses) / size, [scope.get_current_value(v) for v in self.groups["fixed"]]

    # The state: here the variables themselves

    def start(self):
        return None

    def put(self, rows):
        return {key: ops.convert_to_tensor(value) for key, value in rows.items()}

    def store(self, state):
        """Nothing: the variables always hold the newest values."""

    def read(self):
        """{group: values} of the variables."""
        return {group: [v.value for v in variables] for group, variables in self.groups.items()}

    def write(self, new):
        """Puts {group: values} into the variables."""
        for group, values in new.items():
            for variable, value in zip(self.groups[group], values, strict=True):
                if value is not variable.value:  # else it was changed in place
                    variable.assign(value)

    def variables(self):
        """{key: variable} of all that a step changes, for the checkpoint; no key depends on an automatic name."""
        return {
            f"{group}/{i:04d}/{v.name}/{'x'.join(map(str, v.shape))}": v
            for group, variables in self.groups.items()
            for i, v in enumerate(variables)
        }


def filled(images, parts):
    """(B, ...) with rows of zeros behind, so that as many equal parts can be made of it."""
    return np.pad(images, [(0, -len(images) % parts)] + [(0, 0)] * (images.ndim - 1))


def exact(outputs):
    """Outputs of a model, of whatever structure, with floats as float32."""

    def cast(x):
        return ops.cast(x, "float32") if keras.backend.is_float_dtype(x.dtype) else x

    return keras.tree.map_structure(cast, outputs)


def _apart(device, dtype):
    """What is added to the (seed, counter) of a device."""
    shift = ops.cast(device, dtype) * ops.convert_to_tensor(APART, dtype)
    return ops.stack([shift, ops.zeros_like(shift)])


def _number(value, name, dtype="int32"):
    return keras.Variable(value, dtype=dtype, trainable=False, name=name)
