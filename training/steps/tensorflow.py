"""The step on TensorFlow: loss and gradients as a pure function compiled by XLA, and an update in place.

Compiled code holds neither variables nor collectives: the reduction over devices belongs between the two. Nothing is
rewritten by AutoGraph, as in Keras' own steps: all control flow is on shapes and arguments, or in `ops`.
"""

import numpy as np
import tensorflow as tf
from keras import tree

from training.devices import Replicas
from training.optimizers import AdamW
from training.steps.step import BaseStep, exact, filled


def jit_pays():
    """On a CPU TensorFlow's own kernels are as fast, and start in a fifth of the time."""
    return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))


class Step(BaseStep):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        # An all-reduce between the layers, of batch statistics, stands in no function of its own and not within XLA.
        if not (self.replicas and getattr(self.model, "synchronized", False)):
            self.gradients = tf.function(self.gradients, jit_compile=self.jit, autograph=False)
        self.shares = self.devices.count
        self._run = tf.function(self._on_each if self.replicas else self._report, autograph=False)

    @property
    def replicas(self):
        return isinstance(self.devices, Replicas)

    def run(self, state, batch, rate):
        return state, self._run(batch, tf.constant(rate, "float32"))

    def _report(self, batch, rate):
        return self.one(self.read(), batch, rate)[1]

    def _on_each(self, batch, rate):
        """Every replica makes the same step on its own copy of the variables; the first one's report."""
        strategy = self.devices.strategy
        reports = strategy.run(self._report, (batch, rate))
        return {key: strategy.experimental_local_results(value)[0] for key, value in reports.items()}

    def put(self, rows):
        return self.devices.rows(rows) if self.replicas else super().put(rows)

    def accumulate(self, values, batch):
        if not self.replicas:
            return super().accumulate(values, batch)
        device = tf.distribute.get_replica_context().replica_id_in_sync_group
        work = lambda fixed: super(Step, self).accumulate({**values, "fixed": fixed}, batch)  # noqa: E731
        return self.with_own_draws(device, values["fixed"], work)

    def reduce(self, loss, fixed, gradients):
        if not self.replicas:
            return loss, fixed, gradients
        means = [i for i, value in enumerate(fixed) if value.dtype.is_floating]  # of a batch norm; seeds are equal
        tensors = [loss, *gradients, *(fixed[i] for i in means)]  # in one: two at a time might meet in another order
        loss, *tensors = tf.distribute.get_replica_context().all_reduce("SUM", tensors)
        for i, value in zip(means, tensors[len(gradients) :], strict=True):
            fixed[i] = value / self.devices.count
        return loss, fixed, tensors[: len(gradients)]

    def write(self, new):
        """On a replica into its own copy: Keras' way would ask all of them."""
        for group, values in new.items():
            for variable, value in zip(self.groups[group], values, strict=True):
                if value is not variable.value:
                    assign(variable, value)

    def read(self):
        return {group: tensors(variables) for group, variables in self.groups.items()}

    def gradients(self, weights, fixed, batch, size):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss, fixed = self.loss(weights, fixed, batch, size)
        return loss, fixed, tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def adamw(self, values, gradients, rate):
        """In place, one fused operation a weight.

        The operation is Adam with epsilon at the uncorrected root. With epsilon scaled by the root of the correction,
        and both corrections in the rate, that is torch's formula.
        """
        adamw, groups = self.optimizer, {name: self.groups[name] for name in ("weights", "first", "second")}
        correction_1, correction_2 = adamw.corrections(values["counters"][0])
        root = tf.sqrt(correction_2)
        betas = {"beta1_power": 0.0, "beta2_power": 0.0, "beta1": adamw.beta_1, "beta2": adamw.beta_2}
        rows = zip(*groups.values(), gradients, adamw.multipliers, adamw.decays, strict=True)
        for w, m, v, g, multiplier, decay in rows:
            own_rate = rate * multiplier
            if decay:
                assign(w, w.value * (1.0 - own_rate * decay))
            handles = {"var": w.value.handle, "m": m.value.handle, "v": v.value.handle}
            numbers = {"lr": own_rate * root / correction_1, "epsilon": adamw.epsilon * root}
            tf.raw_ops.ResourceApplyAdam(**handles, **betas, **numbers, grad=tf.cast(g, w.dtype))
        return {name: [v.value for v in variables] for name, variables in groups.items()}

    fused = {AdamW: adamw}

    def choose(self, applied, values, updated, skipped):
        def written(new):
            self.write(new)
            return new["counters"]

        return {"counters": tf.cond(applied, lambda: written(updated()), lambda: written(skipped()))}


def assign(variable, value):
    tf.raw_ops.AssignVariableOp(resource=variable.value.handle, value=value)


def tensors(variables):
    return [tf.convert_to_tensor(v.value) for v in variables]


def make_predict(model, jit, devices):
    # XLA compiles for each size of pictures; else the second size is traced as any
    @tf.function(jit_compile=jit, reduce_retracing=not jit, autograph=False)
    def outputs(values, fixed, images):
        return exact(model.stateless_call(values, fixed, images, training=False)[0])

    def predict(images, weights=None):
        weights = model.trainable_variables if weights is None else weights
        fixed = model.non_trainable_variables
        if not isinstance(devices, Replicas):
            return outputs(tensors(weights), tensors(fixed), tree.map_structure(tf.convert_to_tensor, images))
        parts = tree.map_structure(lambda x: np.split(filled(x, devices.local), devices.local), images)
        answers = []
        for i, device in enumerate(devices.devices):
            part = tree.map_structure_up_to(images, lambda part, i=i: tf.convert_to_tensor(part[i]), parts)
            with tf.device(device):  # a GPU only takes the work here, so that they work side by side
                answers.append(outputs(devices.copy(weights, i), devices.copy(fixed, i), part))
        count = len(tree.flatten(images)[0])
        return tree.map_structure(lambda *own: np.concatenate([x.numpy() for x in own])[:count], *answers)

    return predict
