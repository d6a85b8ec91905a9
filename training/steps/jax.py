"""The step on JAX: one compiled function from state to state; the old state's memory is given to the new one."""

import jax
import jax.numpy as jnp
from keras import ops

from training.steps.step import BaseStep


def jit_pays():
    return True


class Step(BaseStep):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._one = jax.jit(self.one, donate_argnums=0) if self.jit else self.one

    def start(self):
        """The variables' values; the first `run` frees them, so nobody may read a variable before `store`."""
        return self.read()

    def run(self, state, batch, rate):
        return self._one(state, batch, jnp.float32(rate))

    def store(self, state):
        self.write(state)

    def gradients(self, weights, fixed, batch, size):
        (loss, fixed), gradients = jax.value_and_grad(self.loss, has_aux=True)(weights, fixed, batch, size)
        return loss, fixed, gradients

    def fold(self, work_off, done, parts):
        return jax.lax.scan(lambda done, part: (work_off(done, part), None), done, parts)[0]

    def choose(self, applied, values, updated, skipped):
        new = ({**values, **changed()} for changed in (updated, skipped))
        return jax.tree.map(lambda yes, no: jnp.where(applied, yes, no), *new)


def make_predict(model, jit):
    def outputs(values, fixed, images):
        return ops.cast(model.stateless_call(values, fixed, images, training=False)[0], "float32")

    outputs = jax.jit(outputs) if jit else outputs

    def predict(images, weights=None):
        weights = model.trainable_variables if weights is None else weights
        return outputs([v.value for v in weights], [v.value for v in model.non_trainable_variables], images)

    return predict
