"""What the steps of all backends share: the variables that a step changes, and loss and update as pure functions."""

import keras
from keras import ops


class BaseStep:
    """One optimizer step over one batch.

    start() -> state; run(state, batch, rate) -> (state, report); store(state) puts the values into the Keras variables;
    put(rows) -> batch. `report` has loss, grad_norm, applied, skipped (in all) and streak (without a break), still on
    the device. On TensorFlow and torch the variables are the state, so state is None; on JAX `run` consumes the state
    it is given, and the model may be read only after `store`.

    A gradient or a loss that is not finite changes nothing but the two counters.
    """

    def __init__(self, model, optimizer, sample_losses, *, accumulation, clip_norm, ema_decay, jit):
        optimizer.build(model.trainable_variables)
        self.model, self.optimizer, self.sample_losses = model, optimizer, sample_losses
        self.accumulation, self.clip_norm, self.ema_decay, self.jit = accumulation, clip_norm, ema_decay, jit
        values = [ops.convert_to_numpy(v) for v in model.trainable_variables] if ema_decay is not None else []
        self.average = [keras.Variable(value, trainable=False, name="average") for value in values]
        counters = [keras.Variable(0, dtype="int32", trainable=False, name=name) for name in ("skipped", "streak")]
        self.groups = {
            "weights": list(model.trainable_variables),
            "fixed": list(model.non_trainable_variables),  # the seeds of drop path are here
            "first": list(optimizer.first),
            "second": list(optimizer.second),
            "average": self.average,
            "counters": [optimizer.iterations, *counters],
        }

    def restart(self):
        """Forgets everything but the model's present values, for another run with the same compiled functions."""
        for group in ("first", "second", "counters"):
            for variable in self.groups[group]:
                variable.assign(ops.zeros(variable.shape, variable.dtype))
        for average, weight in zip(self.average, self.groups["weights"] if self.average else [], strict=True):
            average.assign(ops.convert_to_numpy(weight))  # through numpy: JAX gives memory away that two would share

    def variables(self):
        """{key: variable} of all that a step changes, for the checkpoint; no key depends on an automatic name."""
        return {
            f"{group}/{i:04d}/{v.name}/{'x'.join(map(str, v.shape))}": v
            for group, variables in self.groups.items()
            for i, v in enumerate(variables)
        }

    def check(self, batch):
        """The number of samples in a batch, which must fall into `accumulation` equal parts."""
        (size,) = {rows.shape[0] for rows in batch.values()}
        if size % self.accumulation:
            raise ValueError(f"accumulation must divide the batch of {size}. Received: {self.accumulation!r}.")
        return size

    def loss(self, values, fixed, batch, size):
        """(sum of the sample losses / size, the fixed values after it), as a function of the given values."""
        variables = self.groups["weights"] + self.groups["fixed"]
        with keras.StatelessScope(state_mapping=zip(variables, [*values, *fixed], strict=True)) as scope:
            losses = self.sample_losses(self.model, batch)  # (B,)
        return ops.sum(losses) / size, [scope.get_current_value(v) for v in self.groups["fixed"]]

    def update(self, state, fixed, loss, gradients, rate):
        """New state and report, pure. Order: finite? - clip the whole - decay and AdamW - average.

        This is the definition. TensorFlow and torch have fused operations in place that compute the same.
        """
        norm = ops.sqrt(sum(ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients))
        applied = ops.logical_and(ops.isfinite(norm), ops.isfinite(loss))
        if self.clip_norm is not None:
            shrink = ops.minimum(1.0, self.clip_norm / (norm + 1e-6))  # torch.nn.utils.clip_grad_norm_
            gradients = [g * shrink for g in gradients]
        iterations, skipped, streak = state["counters"]
        slots = (state["first"], state["second"])
        weights, first, second = self.optimizer.updated(state["weights"], *slots, gradients, iterations, rate)
        average = state["average"]
        if average:
            average = [a + (w - a) * (1.0 - self.ema_decay) for a, w in zip(average, weights, strict=True)]
        new = {"weights": weights, "fixed": fixed, "first": first, "second": second, "average": average}
        new = {
            group: [ops.where(applied, n, o) for n, o in zip(values, state[group], strict=True)]
            for group, values in new.items()
        }
        one = ops.cast(applied, "int32")
        skipped, streak = skipped + 1 - one, (streak + 1) * (1 - one)
        new["counters"] = [iterations + ops.cast(one, iterations.dtype), skipped, streak]
        report = {"loss": loss, "grad_norm": norm, "applied": applied, "skipped": skipped, "streak": streak}
        return new, report
