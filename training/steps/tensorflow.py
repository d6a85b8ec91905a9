"""The step on TensorFlow: loss and gradients as a pure function compiled by XLA, and an update in place.

Compiled code holds neither variables nor collectives: the reduction over devices belongs between the two.
"""

import tensorflow as tf
from keras import ops

from training.steps.step import BaseStep


def jit_pays():
    """On a CPU TensorFlow's own kernels are as fast, and start in a fifth of the time."""
    return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))


def _read(variables):
    return [tf.convert_to_tensor(v.value) for v in variables]


class Step(BaseStep):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._loss_and_gradients = tf.function(self._loss_and_gradients, jit_compile=self.jit)
        self._whole_step = tf.function(self._whole_step)

    def start(self):
        return None

    def put(self, rows):
        return {key: tf.convert_to_tensor(value) for key, value in rows.items()}

    def run(self, state, batch, rate):
        return state, self._whole_step(batch, tf.constant(rate, "float32"))

    def store(self, state):
        """Nothing: the variables always hold the newest values."""

    def _loss_and_gradients(self, values, fixed, batch, size):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss, fixed = self.loss(values, fixed, batch, size)
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return loss, fixed, gradients

    def _whole_step(self, batch, rate):
        size = self.check(batch)
        weights, fixed = _read(self.groups["weights"]), _read(self.groups["fixed"])
        loss, gradients = 0.0, None
        for part in range(self.accumulation):
            rows = slice(part * size // self.accumulation, (part + 1) * size // self.accumulation)
            some = {key: value[rows] for key, value in batch.items()}
            part_loss, fixed, part_gradients = self._loss_and_gradients(weights, fixed, some, float(size))
            loss += part_loss
            gradients = part_gradients if part == 0 else [a + b for a, b in zip(gradients, part_gradients, strict=True)]
        norm = tf.linalg.global_norm(gradients)
        applied = tf.math.is_finite(norm) & tf.math.is_finite(loss)
        if self.clip_norm is not None:
            shrink = tf.minimum(1.0, self.clip_norm / (norm + 1e-6))
            gradients = [g * shrink for g in gradients]
        skipped, streak = tf.cond(applied, lambda: self._apply(fixed, gradients, rate), self._skip)
        return {"loss": loss, "grad_norm": norm, "applied": applied, "skipped": skipped, "streak": streak}

    def _apply(self, fixed, gradients, rate):
        """AdamW.updated in place, one fused operation a weight; compiling it takes longer than it saves.

        The operation is Adam with epsilon at the uncorrected root. With epsilon scaled by the root of the correction,
        and both corrections in the rate, that is torch's formula.
        """
        adamw, (iterations, skipped, streak) = self.optimizer, self.groups["counters"]
        correction_1, correction_2 = adamw.corrections(iterations)
        root = tf.sqrt(correction_2)
        betas = {"beta1_power": 0.0, "beta2_power": 0.0, "beta1": adamw.beta_1, "beta2": adamw.beta_2}
        rows = zip(self.groups["weights"], adamw.first, adamw.second, gradients, strict=True)
        for (w, m, v, g), multiplier, decay in zip(rows, adamw.multipliers, adamw.decays, strict=True):
            own_rate = rate * multiplier
            if decay:
                w.assign(w.value * (1.0 - own_rate * decay))
            handles = {"var": w.value.handle, "m": m.value.handle, "v": v.value.handle}
            numbers = {"lr": own_rate * root / correction_1, "epsilon": adamw.epsilon * root}
            tf.raw_ops.ResourceApplyAdam(**handles, **betas, **numbers, grad=tf.cast(g, w.dtype))
        for average, w in zip(self.average, self.groups["weights"] if self.average else [], strict=True):
            average.assign_add((w.value - average.value) * (1.0 - self.ema_decay))
        for variable, value in zip(self.groups["fixed"], fixed, strict=True):
            variable.assign(value)
        iterations.assign_add(1)
        streak.assign(0)
        return tf.convert_to_tensor(skipped.value), tf.convert_to_tensor(streak.value)

    def _skip(self):
        _, skipped, streak = self.groups["counters"]
        skipped.assign_add(1)
        streak.assign_add(1)
        return tf.convert_to_tensor(skipped.value), tf.convert_to_tensor(streak.value)


def make_predict(model, jit):
    @tf.function(jit_compile=jit)
    def outputs(values, fixed, images):
        return ops.cast(model.stateless_call(values, fixed, images, training=False)[0], "float32")

    def predict(images, weights=None):
        weights = model.trainable_variables if weights is None else weights
        return outputs(_read(weights), _read(model.non_trainable_variables), tf.convert_to_tensor(images))

    return predict
