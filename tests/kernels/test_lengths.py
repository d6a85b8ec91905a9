"""Rows that are filled up: only those that hold something are computed, and the numbers are those of all."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_convnextv2.kernels.lengths import PORTION, of_those_in_front
from tests.kernels.test_forms import normal, value_and_gradients

BACKEND = keras.backend.backend()


@pytest.mark.parametrize("count, used", [(5, (2, 4)), (2 * PORTION + 3, (0, 3)), (2 * PORTION + 3, (PORTION + 1, 2))])
def test_values_and_gradients_are_those_of_all_rows(count, used):
    there = np.arange(count) < np.array(used)[:, None]
    rows, weight = normal(2, count, 3), normal(3, seed=1)

    def errors(rows, weight, limit=lambda function, *rows: function(*rows)):
        mask = ops.convert_to_tensor(there)
        return limit(lambda mask, x: ops.where(mask, ops.sum(ops.tanh(x * weight), axis=-1), 0.0), mask, rows)

    def in_front(rows, weight):
        return errors(rows, weight, lambda function, mask, x: of_those_in_front(function, mask, mask, x))

    for whole, short in zip(*(value_and_gradients(f, [rows, weight]) for f in (errors, in_front)), strict=True):
        np.testing.assert_allclose(short, whole, rtol=0, atol=1e-6)


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere the columns are cut off")
def test_jax_computes_the_portions_that_hold_something_alone():
    import jax

    computed = []
    there = np.arange(4 * PORTION) < PORTION + 1

    def function(mask, x):
        jax.debug.callback(lambda: computed.append(1))
        return x[..., 0]

    jax.jit(lambda mask, x: of_those_in_front(function, mask, mask, x))(there[None], normal(1, 4 * PORTION, 2))
    jax.effects_barrier()
    assert len(computed) == 2


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere every length is known")
def test_a_length_that_is_known_only_when_it_is_run():
    import tensorflow as tf

    there, rows = np.arange(5) < np.array([[2], [4]]), normal(2, 5, 3)

    @tf.function(input_signature=[tf.TensorSpec((2, None), "bool"), tf.TensorSpec((2, None, 3))], autograph=False)
    def summed(there, rows):
        return of_those_in_front(lambda mask, x: ops.where(mask, ops.sum(x, axis=-1), 0.0), there, there, rows)

    np.testing.assert_allclose(summed(there, rows), np.where(there, rows.sum(-1), 0), atol=1e-6)
