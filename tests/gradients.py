"""Values and gradients of a function of a model, on whatever backend the tests run with."""

import keras
from keras import ops


def gradients_of(loss, model):
    """{path: numpy gradient} of the scalar that `loss()` returns, for every trainable weight of the model."""
    variables = model.trainable_variables
    gradients = _GRADIENTS[keras.backend.backend()](loss, variables)
    return {v.path: ops.convert_to_numpy(g) for v, g in zip(variables, gradients, strict=True)}


def values_of(function, model):
    """What `function()` returns. JAX compiles it as a whole: op by op it compiles for a minute."""
    if keras.backend.backend() != "jax":
        return function()
    import jax

    def of_values(values):
        with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
            return function()

    return jax.jit(of_values)([v.value for v in model.variables])


def _tensorflow(loss, variables):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = loss()
    return tape.gradient(value, [v.value for v in variables])


def _jax(loss, variables):
    import jax

    def of_values(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return loss()

    return jax.jit(jax.grad(of_values))([v.value for v in variables])


def _torch(loss, variables):
    import torch

    return torch.autograd.grad(loss(), [v.value for v in variables])


_GRADIENTS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
