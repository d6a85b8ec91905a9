"""The step on TensorFlow: loss and gradients as a pure function compiled by XLA, and an update in place.

Compiled code holds neither variables nor collectives: the reduction over devices belongs between the two.
"""

import tensorflow as tf
from keras import ops

from training.steps.step import BaseStep


def jit_pays():
    """On a CPU TensorFlow's own kernels are as fast, and start in a fifth of the time."""
    return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))


class Step(BaseStep):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gradients = tf.function(self.gradients, jit_compile=self.jit)
        self._run = tf.function(lambda batch, rate: self.one(self.read(), batch, rate)[1])

    def run(self, state, batch, rate):
        return state, self._run(batch, tf.constant(rate, "float32"))

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
                w.assign(w.value * (1.0 - own_rate * decay))
            handles = {"var": w.value.handle, "m": m.value.handle, "v": v.value.handle}
            numbers = {"lr": own_rate * root / correction_1, "epsilon": adamw.epsilon * root}
            tf.raw_ops.ResourceApplyAdam(**handles, **betas, **numbers, grad=tf.cast(g, w.dtype))
        return {name: [v.value for v in variables] for name, variables in groups.items()}

    def choose(self, applied, values, updated, skipped):
        def written(new):
            self.write(new)
            return new["counters"]

        return {"counters": tf.cond(applied, lambda: written(updated()), lambda: written(skipped()))}


def tensors(variables):
    return [tf.convert_to_tensor(v.value) for v in variables]


def make_predict(model, jit):
    @tf.function(jit_compile=jit)
    def outputs(values, fixed, images):
        return ops.cast(model.stateless_call(values, fixed, images, training=False)[0], "float32")

    def predict(images, weights=None):
        weights = model.trainable_variables if weights is None else weights
        return outputs(tensors(weights), tensors(model.non_trainable_variables), tf.convert_to_tensor(images))

    return predict
