"""The step on TensorFlow: pure functions compiled by XLA, between reads and writes of the variables.

Compiled code holds neither variables nor collectives: the reduction over devices belongs between the two functions.
"""

import tensorflow as tf
from keras import ops

from training.steps.step import BaseStep


def _read(variables):
    return [tf.convert_to_tensor(v.value) for v in variables]


class Step(BaseStep):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._loss_and_gradients = tf.function(self._loss_and_gradients, jit_compile=self.jit)
        self._update = tf.function(self.update, jit_compile=self.jit)
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
        state = {group: _read(variables) for group, variables in self.groups.items()}
        loss, fixed, gradients = 0.0, state["fixed"], None
        for part in range(self.accumulation):
            rows = slice(part * size // self.accumulation, (part + 1) * size // self.accumulation)
            some = {key: value[rows] for key, value in batch.items()}
            part_loss, fixed, part_gradients = self._loss_and_gradients(state["weights"], fixed, some, float(size))
            loss += part_loss
            gradients = part_gradients if part == 0 else [a + b for a, b in zip(gradients, part_gradients, strict=True)]
        new, report = self._update(state, fixed, loss, gradients, rate)
        for group, variables in self.groups.items():
            for variable, value in zip(variables, new[group], strict=True):
                variable.assign(value)
        return report


def make_predict(model, jit):
    @tf.function(jit_compile=jit)
    def outputs(values, fixed, images):
        return ops.cast(model.stateless_call(values, fixed, images, training=False)[0], "float32")

    def predict(images, weights=None):
        weights = model.trainable_variables if weights is None else weights
        return outputs(_read(weights), _read(model.non_trainable_variables), tf.convert_to_tensor(images))

    return predict
