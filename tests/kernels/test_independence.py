"""Pictures of a batch are independent in every form: what is wrong in one stays in that one."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_convnextv2 import kernels
from keras_convnextv2.kernels.table import FORM_VARIABLE

BACKEND = keras.backend.backend()
FORMS = ["plain", "xla", "tensorflow"] + (["torch"] if BACKEND == "torch" else [])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def grn_of(function):
    return lambda x: function(ops.reshape(x, (3, 30, 4)), normal(4, seed=1), normal(4, seed=2), 1e-6)


def visible(x):
    patches = ops.reshape(x, (3, 30, 4))
    kept = ops.convert_to_tensor(np.array([[0, 3], [1, 2], [2, 29]], "int32"))
    position = np.full((3, 30), 2, "int32")
    np.put_along_axis(position, np.array([[0, 3], [1, 2], [2, 29]]), np.array([[0, 1]] * 3, "int32"), 1)
    position = ops.convert_to_tensor(position)
    return kernels.put_patches_back(kernels.keep_patches(patches, kept, position), kept, position)


OPERATIONS = {
    "depthwise": lambda x: kernels.depthwise(x, *map(ops.convert_to_tensor, (normal(7, 7, 4, 1), normal(4)))),
    "patch_conv": lambda x: kernels.patch_conv(x, *map(ops.convert_to_tensor, (normal(2, 2, 4, 5), normal(5)))),
    "pointwise": lambda x: kernels.pointwise(x, *map(ops.convert_to_tensor, (normal(4, 7), normal(7)))),
    "layer_norm": lambda x: kernels.layer_norm(x, *map(ops.convert_to_tensor, (normal(4), normal(4))), 1e-6),
    "grn": grn_of(lambda x, g, b, e: kernels.grn(x, *map(ops.convert_to_tensor, (g, b)), e)),
    "gelu_grn": grn_of(lambda x, g, b, e: kernels.gelu_grn(x, *map(ops.convert_to_tensor, (g, b)), e)),
    "visible": visible,
}


def value_and_slope(function, x):
    """function(x), and the gradient of the sum of its squares: both are each picture's own."""
    if BACKEND == "jax":
        import jax

        y, pull = jax.vjp(jax.jit(function), x)
        return y, pull(2 * y)[0]
    if BACKEND == "tensorflow":
        import os

        import tensorflow as tf

        @tf.function(jit_compile=os.environ[FORM_VARIABLE] == "xla")
        def compiled(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = function(x)
            return y, tape.gradient(y, x, output_gradients=2 * y)

        return compiled(tf.convert_to_tensor(x))
    import torch

    x = ops.convert_to_tensor(x).requires_grad_()  # where Keras puts tensors
    y = function(x)
    return y, torch.autograd.grad(y, x, 2 * y.detach())[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bad_picture_spoils_no_other(monkeypatch, operation, form, bad):
    monkeypatch.setenv(FORM_VARIABLE, form)
    x = normal(3, 6, 5, 4)
    expected = [ops.convert_to_numpy(part) for part in value_and_slope(OPERATIONS[operation], x)]
    for spoilt in range(3):
        given = x.copy()
        given[spoilt, 0, 0, 0] = bad
        others = [i for i in range(3) if i != spoilt]
        for part, whole in zip(value_and_slope(OPERATIONS[operation], given), expected, strict=True):
            np.testing.assert_allclose(ops.convert_to_numpy(part)[others], whole[others], rtol=1e-5, atol=1e-4)
