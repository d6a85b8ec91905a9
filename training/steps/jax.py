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
        self._step = jax.jit(self._whole_step, donate_argnums=0) if self.jit else self._whole_step

    def start(self):
        """The variables' values; the first `run` frees them, so nobody may read a variable before `store`."""
        return {group: [v.value for v in variables] for group, variables in self.groups.items()}

    def put(self, rows):
        return jax.device_put(dict(rows))

    def run(self, state, batch, rate):
        return self._step(state, batch, jnp.float32(rate))

    def store(self, state):
        for group, variables in self.groups.items():
            for variable, value in zip(variables, state[group], strict=True):
                variable.assign(value)

    def _whole_step(self, state, batch, rate):
        size = self.check(batch)
        loss_and_gradients = jax.value_and_grad(self.loss, has_aux=True)

        def work_off(carry, part):
            loss, fixed, gradients = carry
            (part_loss, fixed), part_gradients = loss_and_gradients(state["weights"], fixed, part, size)
            gradients = jax.tree.map(jnp.add, gradients, part_gradients)
            return (loss + part_loss, fixed, gradients), None

        if self.accumulation == 1:
            (loss, fixed), gradients = loss_and_gradients(state["weights"], state["fixed"], batch, size)
        else:
            parts = {key: jnp.reshape(rows, (self.accumulation, -1, *rows.shape[1:])) for key, rows in batch.items()}
            nothing = (jnp.float32(0.0), state["fixed"], [jnp.zeros_like(value) for value in state["weights"]])
            (loss, fixed, gradients), _ = jax.lax.scan(work_off, nothing, parts)
        return self.update(state, fixed, loss, gradients, rate)


def make_predict(model, jit):
    def outputs(values, fixed, images):
        return ops.cast(model.stateless_call(values, fixed, images, training=False)[0], "float32")

    outputs = jax.jit(outputs) if jit else outputs

    def predict(images, weights=None):
        weights = model.trainable_variables if weights is None else weights
        return outputs([v.value for v in weights], [v.value for v in model.non_trainable_variables], images)

    return predict
