"""Every fast form of an operation equals the plain one: outputs and all gradients, in float32."""

import os

import keras
import numpy as np
import pytest
from keras import ops

from keras_convnextv2 import kernels
from keras_convnextv2.kernels.table import FORM_VARIABLE

BACKEND = keras.backend.backend()
FAST = ["xla", "tensorflow"] + (["torch"] if BACKEND == "torch" else [])
to_numpy = ops.convert_to_numpy


def value_and_gradients(fn, arrays):
    """Of sum(fn(*arrays) * weights that differ everywhere)."""
    tensors = [ops.convert_to_tensor(a) for a in arrays]
    shape = fn(*tensors).shape
    weights = ops.convert_to_tensor(np.random.default_rng(9).normal(size=tuple(shape)).astype("float32"))

    def scalar(*tensors):
        return ops.sum(ops.cast(fn(*tensors), "float32") * weights)

    if BACKEND == "jax":
        import jax

        gradients = jax.jit(jax.grad(scalar, argnums=tuple(range(len(tensors)))))(*tensors)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        # each form where it is picked
        @tf.function(jit_compile=os.environ.get(FORM_VARIABLE, "xla") == "xla")
        def gradients_of(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                loss = scalar(*tensors)
            return tape.gradient(loss, tensors)

        gradients = gradients_of(*tensors)
    else:
        import torch

        tensors = [t.detach().requires_grad_() for t in tensors]
        gradients = torch.autograd.grad(scalar(*tensors), tensors)
    return [to_numpy(fn(*tensors))] + [to_numpy(g) for g in gradients]


def assert_forms_agree(monkeypatch, form, fn, arrays, tolerance=1e-5):
    results = {}
    for name in ("plain", form):
        monkeypatch.setenv(FORM_VARIABLE, name)
        results[name] = value_and_gradients(fn, arrays)
    for i, (plain, fast) in enumerate(zip(results["plain"], results[form], strict=True)):
        assert np.isfinite(fast).all()
        np.testing.assert_allclose(fast, plain, rtol=0, atol=tolerance * max(np.abs(plain).max(), 1e-3), err_msg=str(i))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# Heights and widths of one band, of bands with a remainder, and of rows cut into pieces with a remainder.
@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("height, width", [(2, 3), (9, 7), (5, 14), (3, 35)])
def test_depthwise(monkeypatch, form, height, width):
    arrays = [normal(2, height, width, 4), normal(7, 7, 4, 1, seed=1), normal(4, seed=2)]
    assert_forms_agree(monkeypatch, form, kernels.depthwise, arrays)


@pytest.mark.parametrize("form", FAST)
def test_gelu_grn_with_a_silent_channel(monkeypatch, form):
    x = 2 * normal(2, 15, 6)
    x[1, :, 3] = 0.0
    arrays = [x, normal(6, seed=1), normal(6, seed=2)]
    assert_forms_agree(monkeypatch, form, lambda *a: kernels.gelu_grn(*a, 1e-6), arrays)


@pytest.mark.parametrize("form", FAST)
def test_layer_norm(monkeypatch, form):
    arrays = [3 + normal(2, 3, 5, 6), normal(6, seed=1), normal(6, seed=2)]
    assert_forms_agree(monkeypatch, form, lambda *a: kernels.layer_norm(*a, 1e-6), arrays)


@pytest.mark.parametrize("form", FAST)
def test_patch_conv_drops_the_remainder(monkeypatch, form):
    arrays = [normal(2, 9, 6, 3), normal(4, 4, 3, 5, seed=1), normal(5, seed=2)]
    assert_forms_agree(monkeypatch, form, kernels.patch_conv, arrays)


@pytest.mark.parametrize("form", FAST)
def test_patch_conv_transpose(monkeypatch, form):
    arrays = [normal(2, 3, 5, 4), normal(2, 2, 6, 4, seed=1), normal(6, seed=2)]
    assert_forms_agree(monkeypatch, form, kernels.patch_conv_transpose, arrays)


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("side, channels, dim", [(1, 4, 6), (3, 4, 6), (3, 6, 4), (5, 3, 3)])
def test_same_conv(monkeypatch, form, side, channels, dim):
    arrays = [normal(2, 4, 7, channels), normal(side, side, channels, dim, seed=1)]
    assert_forms_agree(monkeypatch, form, kernels.same_conv, arrays)


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("shape, width", [((2, 3, 5, 4), 7), ((2, 6, 7), 4), ((2, 16, 9, 4), 7)])
def test_pointwise(monkeypatch, form, shape, width):
    arrays = [normal(*shape), normal(shape[-1], width, seed=1), normal(width, seed=2)]
    assert_forms_agree(monkeypatch, form, kernels.pointwise, arrays)


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 3e-2), ("float16", 1e-2)])
@pytest.mark.parametrize("form", ["plain", *FAST])
def test_half_precision_stays_close_to_float32(monkeypatch, form, dtype, tolerance):
    monkeypatch.setenv(FORM_VARIABLE, form)
    arrays = [
        normal(2, 6, 7, 4),
        normal(7, 7, 4, 1, seed=1),
        normal(4, 6, seed=2),
        normal(6, seed=3),
        normal(6, seed=4),
    ]

    def network(dtype):
        def outputs(x, kernel, wide, gamma, beta):
            x, kernel, wide = (ops.cast(t, dtype) for t in (x, kernel, wide))
            y = kernels.depthwise(x, kernel, ops.cast(beta[:4], dtype))
            y = kernels.layer_norm(y, gamma[:4], beta[:4], 1e-6)
            y = kernels.pointwise(y, wide, ops.cast(beta, dtype))
            y = kernels.gelu_grn(ops.reshape(y, (2, 42, 6)), gamma, beta, 1e-6)
            assert keras.backend.standardize_dtype(y.dtype) == dtype
            return ops.cast(y, "float32")

        return outputs

    exact, half = (value_and_gradients(network(d), arrays) for d in ("float32", dtype))
    for i, (a, b) in enumerate(zip(exact, half, strict=True)):
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * np.abs(a).max(), err_msg=str(i))


def test_an_unknown_form_is_refused(monkeypatch):
    monkeypatch.setenv(FORM_VARIABLE, "fast")
    with pytest.raises(ValueError, match="must be one of plain, xla, tensorflow, torch. Received: 'fast'"):
        kernels.layer_norm(ops.zeros((1, 2)), ops.ones(2), ops.zeros(2), 1e-6)


def test_keep_and_put_back_are_each_others_gradient():
    patches, rows = normal(2, 6, 5), normal(2, 3, 5, seed=1)
    visible = np.array([[0, 2, 5], [1, 2, 3]], "int32")
    position = np.array([[0, 3, 1, 3, 3, 2], [3, 0, 1, 2, 3, 3]], "int32")

    def dense(x, scale):
        kept = kernels.keep_patches(x, ops.convert_to_tensor(visible), ops.convert_to_tensor(position))
        return kernels.put_patches_back(kept * scale, ops.convert_to_tensor(visible), ops.convert_to_tensor(position))

    y, dx, dscale = value_and_gradients(dense, [patches, rows])
    stays = (position < 3)[..., None]
    kept = np.take_along_axis(patches, visible[..., None], 1)
    expected = np.zeros_like(patches)
    np.put_along_axis(expected, visible[..., None], kept * rows, 1)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    weights = np.random.default_rng(9).normal(size=y.shape).astype("float32")
    expected_dx = np.zeros_like(patches)
    np.put_along_axis(expected_dx, visible[..., None], np.take_along_axis(weights, visible[..., None], 1) * rows, 1)
    np.testing.assert_allclose(dx, expected_dx * stays, atol=1e-6)
    np.testing.assert_allclose(dscale, np.take_along_axis(weights, visible[..., None], 1) * kept, atol=1e-6)
