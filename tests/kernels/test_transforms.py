"""What one does with a model outside of its training: op by op on JAX, function transforms and ONNX on torch."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2 import kernels
from keras_convnextv2.kernels.table import FORM_VARIABLE

BACKEND = keras.backend.backend()
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="JAX compiles op by op outside of jit")
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="a transform of torch")


def mini(**options):
    return kc.ConvNeXtV2((1, 2), (4, 6), **{"input_shape": (16, 24, 3), "classes": 3, "drop_path_rate": 0.1, **options})


def pictures(count=2):
    return np.random.default_rng(0).uniform(0, 255, (count, 16, 24, 3)).astype("float32")


@pytest.fixture
def compilations():
    """A list that gets an entry for each program that JAX compiles."""
    import jax

    found = []
    jax.clear_caches()

    def note(name, seconds, **details):
        if name == "/jax/core/compile/jaxpr_to_mlir_module_duration":  # before a cache on disk is asked
            found.append(details)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


def call(model):
    return lambda: model(pictures())


def part(model):
    return call(keras.Model(model.input, model.get_layer("stage_1").output))


def gradient(model):
    """An un-jitted training step, as `fit` makes it of a model that holds a layer of the data's."""
    import jax

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(model.trainable_variables, values, strict=True))):
            return ops.mean(ops.square(model(pictures(), training=True)))

    return lambda: jax.value_and_grad(loss)([v.value for v in model.trainable_variables])


def masked(model):
    fcmae = kc.FCMAE(mini(include_top=False), decoder_dim=8)
    visible = np.array([[0, 2], [1, 5]], "int32")
    return lambda: fcmae({"images": pictures(), "visible": visible})


@on_jax
@pytest.mark.parametrize("work", [call, part, gradient, masked])
def test_repeated_eager_work_compiles_nothing(compilations, work):
    run = work(mini())
    run()
    assert compilations, "the counter sees nothing"
    run()  # what the first call left to see for the first time
    compilations.clear()
    run()
    assert compilations == []


@on_jax
def test_op_by_op_gradients_are_those_of_the_compiled_step():
    import jax

    model = mini(drop_path_rate=0.0)
    values = [v.value for v in model.trainable_variables]

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(model.trainable_variables, values, strict=True))):
            return ops.mean(ops.square(model(pictures(), training=True)))

    for eager, compiled in zip(jax.grad(loss)(values), jax.jit(jax.grad(loss))(values), strict=True):
        np.testing.assert_allclose(eager, compiled, rtol=0, atol=1e-5)


def gelu_grn(x, gamma, beta):
    return kernels.gelu_grn(x, gamma, beta, 1e-6)


def inputs():
    rng = np.random.default_rng(3)
    return [ops.convert_to_tensor(rng.normal(size=size), "float32") for size in ((2, 5, 3), 3, 3)]


@on_torch
def test_second_derivatives_are_those_of_the_definition(monkeypatch):
    import torch

    found = {}
    for form in ("plain", "torch"):
        monkeypatch.setenv(FORM_VARIABLE, form)
        leaves = [a.requires_grad_() for a in inputs()]
        upstream = ops.reshape(ops.linspace(-1.0, 2.0, 30), (2, 5, 3)).requires_grad_()
        first = torch.autograd.grad(gelu_grn(*leaves), leaves, upstream, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(3).sum() for g in first), [*leaves[:2], upstream])
        found[form] = [*first, *second]
    for plain, fast in zip(found["plain"], found["torch"], strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@on_torch
def test_a_gradient_penalty_trains_the_parameters_that_made_it(monkeypatch):
    import torch

    found = {}
    for form in ("plain", "torch"):
        monkeypatch.setenv(FORM_VARIABLE, form)
        keras.utils.set_random_seed(1)
        model = mini(classifier_activation=None, drop_path_rate=0.0)
        x = ops.convert_to_tensor(pictures()).requires_grad_()
        (slope,) = torch.autograd.grad(model(x, training=True).square().sum(), x, create_graph=True)
        weights = [v.value for v in model.trainable_variables]
        found[form] = torch.autograd.grad(slope.square().sum(), weights, allow_unused=True)
    for plain, fast in zip(found["plain"], found["torch"], strict=True):
        assert (plain is None) == (fast is None)
        if plain is not None:
            torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-5 * float(plain.abs().max() + 1e-6))


@on_torch
def test_function_transforms_agree_with_autograd():
    import torch

    x, gamma, beta = inputs()

    def total(x, gamma, beta):
        return gelu_grn(x, gamma, beta).square().sum()

    leaves = [a.clone().requires_grad_() for a in (x, gamma, beta)]
    expected = torch.autograd.grad(total(*leaves), leaves)
    for got, want in zip(torch.func.grad(total, argnums=(0, 1, 2))(x, gamma, beta), expected, strict=True):
        torch.testing.assert_close(got, want)
    one_by_one = torch.func.vmap(lambda row: gelu_grn(row[None], gamma, beta)[0])(x)
    torch.testing.assert_close(one_by_one, gelu_grn(x, gamma, beta))
    _, along = torch.func.jvp(lambda x: gelu_grn(x, gamma, beta), (x,), (torch.ones_like(x),))
    assert along.shape == x.shape and torch.isfinite(along).all()


@on_torch
def test_gradients_of_each_sample_by_vmap():
    import torch

    model = mini(classifier_activation=None, drop_path_rate=0.0)
    images = ops.convert_to_tensor(pictures())

    def one(image):
        return model(image[None], training=False).square().sum()

    slopes = torch.func.vmap(torch.func.grad(one))(images)
    leaf = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf, training=False).square().sum(), leaf)
    torch.testing.assert_close(slopes, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # torch.onnx, which Keras calls, warns of itself and of tracing
@on_torch
@pytest.mark.skipif(not importlib.util.find_spec("onnxscript"), reason="torch writes ONNX through onnxscript")
def test_torch_writes_onnx(tmp_path):
    model = mini()
    model(pictures())  # Keras exports what has been called
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    assert (tmp_path / "model.onnx").stat().st_size > 1000
