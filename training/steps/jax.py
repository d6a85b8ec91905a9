"""The step on JAX: one compiled function from state to state; the old state's memory is given to the new one."""

import jax
import jax.numpy as jnp
from keras import ops, tree

from training.devices import Mesh
from training.steps.step import BaseStep, exact, filled


def jit_pays():
    return True


class Step(BaseStep):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        # given where the results lie, the step compiles once: else anew for what the first step returns
        whole = {"out_shardings": self.devices.whole} if self.mesh else {}
        self._one = jax.jit(self.one, donate_argnums=0, **whole) if self.jit else self.one

    @property
    def mesh(self):
        return isinstance(self.devices, Mesh)

    def start(self):
        """The variables' values; the first `run` frees them, so nobody may read a variable before `store`."""
        return jax.device_put(self.read(), self.devices.whole) if self.mesh else self.read()

    def put(self, rows):
        return self.devices.rows(rows) if self.mesh else super().put(rows)

    def run(self, state, batch, rate):
        return self._one(state, batch, jnp.float32(rate))

    def store(self, state):
        self.write(state)

    def gradients(self, weights, fixed, batch, size):
        if self.mesh and getattr(self.model, "averages_samples", False):
            return self._of_each_device(weights, fixed, batch, size)
        (loss, fixed), gradients = jax.value_and_grad(self.loss, has_aux=True)(weights, fixed, batch, size)
        return loss, fixed, gradients

    def _of_each_device(self, weights, fixed, batch, size):
        """The sums over devices, of losses that are averages over what each of them has sampled.

        On the whole batch they would be averages over the samples of all devices, as nowhere else.
        """

        def of_one(weights, fixed, batch, size):
            def work(fixed):
                (loss, fixed), gradients = jax.value_and_grad(self.loss, has_aux=True)(weights, fixed, batch, size)
                return loss, fixed, gradients

            loss, fixed, gradients = self.with_own_draws(jax.lax.axis_index(axes), fixed, work)
            return *jax.lax.psum((loss, gradients), axes), fixed  # the seeds are the same everywhere

        mesh, rows = self.devices.parted.mesh, self.devices.parted.spec
        axes, whole = mesh.axis_names, jax.sharding.PartitionSpec()
        specs = {"in_specs": (whole, whole, rows, whole), "out_specs": whole, "check_vma": False}
        loss, gradients, fixed = jax.shard_map(of_one, mesh=mesh, **specs)(weights, fixed, batch, size)
        return loss, fixed, gradients

    def parts(self, rows):
        """Each part has rows of every device, so that none are moved."""
        rows = ops.reshape(rows, (self.devices.count, self.accumulation, -1, *rows.shape[1:]))
        return ops.reshape(ops.swapaxes(rows, 0, 1), (self.accumulation, -1, *rows.shape[3:]))

    def fold(self, work_off, done, parts):
        return jax.lax.scan(lambda done, part: (work_off(done, part), None), done, parts)[0]

    def choose(self, applied, values, updated, skipped):
        new = ({**values, **changed()} for changed in (updated, skipped))
        return jax.tree.map(lambda yes, no: jnp.where(applied, yes, no), *new)


def make_predict(model, jit, devices):
    mesh = isinstance(devices, Mesh)

    def outputs(values, fixed, images):
        return exact(model.stateless_call(values, fixed, images, training=False)[0])

    outputs = jax.jit(outputs, **({"out_shardings": devices.parted} if mesh else {})) if jit else outputs

    def predict(images, weights=None):
        weights = model.trainable_variables if weights is None else weights
        values = [v.value for v in weights], [v.value for v in model.non_trainable_variables]
        if not mesh:
            return outputs(*values, images)
        rows = devices.rows(tree.map_structure(lambda x: filled(x, devices.local), images))
        answers, count = outputs(*jax.device_put(values, devices.whole), rows), len(tree.flatten(images)[0])
        return tree.map_structure(lambda rows: devices.own(rows)[:count], answers)

    return predict
