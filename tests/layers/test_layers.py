"""Each layer: golden values, invariances, faults; and what every layer owes Keras."""

import inspect
import json
import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_convnextv2 import layers
from keras_convnextv2.layers.grn import GeluGRN
from keras_convnextv2.layers.pointwise import Pointwise

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
to_numpy = ops.convert_to_numpy


def golden_grn(**kwargs):
    arrays = np.load(GOLDEN / "grn.npz")
    layer = layers.GRN(**kwargs)
    layer.build(arrays["x"].shape)
    layer.gamma.assign(arrays["weights/gamma"])
    layer.beta.assign(arrays["weights/beta"])
    return layer, arrays["x"].astype("float32"), arrays["y"]


@pytest.mark.parametrize("policy, atol", [("float32", 1e-5), ("mixed_bfloat16", 5e-2), ("mixed_float16", 5e-3)])
def test_grn_golden_values(policy, atol):
    layer, x, expected = golden_grn(dtype=policy)
    np.testing.assert_allclose(to_numpy(ops.cast(layer(x), "float32")), expected, rtol=0, atol=atol)


def test_grn_of_a_masked_map_equals_gathered_rows():
    layer, x, _ = golden_grn()
    visible = np.zeros((*x.shape[:3], 1), "float32")
    visible[:, ::2, ::3] = 1.0  # the same positions in all images
    masked = to_numpy(layer(x, visible))
    rows = x[:, ::2, ::3].reshape(len(x), -1, x.shape[-1])
    gathered = to_numpy(layer(rows))
    np.testing.assert_allclose(masked[:, ::2, ::3].reshape(rows.shape), gathered, rtol=0, atol=1e-5)
    assert not np.any(masked * (1 - visible))


def test_grn_is_the_identity_when_new():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype("float32")
    np.testing.assert_array_equal(to_numpy(layers.GRN()(x)), x)


def test_a_silent_image_trains_to_finite_weights():
    model = keras.Sequential([layers.PatchConv2D(4, 1), layers.ConvNeXtV2Block(4)])
    model.compile("sgd", "mse")
    model.train_on_batch(np.zeros((2, 4, 6, 3)), np.ones((2, 4, 6, 4)))
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_float16_energy_does_not_overflow():
    layer, x, _ = golden_grn(dtype="mixed_float16")
    y = layer(np.full((1, 16, 16, x.shape[-1]), 300.0, "float16"))
    assert np.isfinite(to_numpy(ops.cast(y, "float32"))).all()


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    layer = layers.DropPath(0.25, seed=1)
    y = to_numpy(layer(np.ones((4000, 2, 3, 1), "float32"), training=True)).reshape(4000, -1)
    assert set(np.round(np.unique(y), 5)) == {0.0, np.float32(1.33333)}
    assert (y == y[:, :1]).all()
    assert abs((y[:, 0] == 0).mean() - 0.25) < 0.03
    np.testing.assert_array_equal(to_numpy(layer(np.ones((3, 2)), training=False)), np.ones((3, 2)))


def test_remat_changes_no_number():
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 8)).astype("float32")
    plain, recomputed = layers.ConvNeXtV2Block(8), layers.ConvNeXtV2Block(8, remat=True)
    for block in (plain, recomputed):
        block.build(x.shape)
    recomputed.set_weights([w + 0.1 for w in plain.get_weights()])
    plain.set_weights(recomputed.get_weights())
    a, b = (to_numpy(block(x, training=True)) for block in (plain, recomputed))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_cut_and_join_are_inverse_with_unequal_sides():
    x = np.arange(2 * 6 * 4 * 3).reshape(2, 6, 4, 3).astype("float32")
    patches = layers.cut_patches(x, 2)
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(to_numpy(patches)[0, 1], x[0, :2, 2:4].reshape(-1))
    np.testing.assert_array_equal(to_numpy(layers.join_patches(patches, (3, 2), 3)), x)


def test_the_complement_holds_exactly_the_hidden_patches():
    patches = layers.Visible(ops.convert_to_tensor([[0, 4], [2, 3]], "int32"), (2, 3))
    np.testing.assert_array_equal(to_numpy(patches.hidden().visible), [[1, 2, 3, 5], [0, 1, 4, 5]])


UNSET = {"parts", "lora_rank", "lora_alpha", "quantization_config"}  # in a config only where something was set
EXAMPLES = [
    layers.GRN(epsilon=1e-3, name="a"),
    layers.LayerNorm(epsilon=1e-3, name="b"),
    layers.DropPath(rate=0.3, seed=4, name="c"),
    layers.DepthwiseConv2D(kernel_size=5, name="d"),
    layers.PatchConv2D(dim=6, patch_size=2, name="e"),
    layers.Preprocessing(mean=(0.1, 0.2, 0.3, 0.4), std=(1.0, 2.0, 3.0, 4.0), name="f"),
    layers.ConvNeXtV2Block(dim=4, drop_path=0.2, remat=True, seed=3, name="g"),
    layers.Stem(dim=6, patch_size=2, total_stride=8, name="h"),
    layers.Downsample(dim=6, name="i"),
    layers.Stage(dim=6, drop_paths=(0.0, 0.1), downsample=False, remat=True, seed=2, name="j"),
    layers.Decoder(dim=6, depth=2, pixels=12, name="k"),
    Pointwise(dim=6, name="l"),
    GeluGRN(epsilon=1e-3, name="m"),
    layers.Dense(units=2, class_names=("cat", "dog"), name="n"),
]


@pytest.mark.parametrize("layer", EXAMPLES, ids=lambda layer: type(layer).__name__)
def test_config_keeps_every_argument(layer):
    config = json.loads(json.dumps(layer.get_config()))
    revived = type(layer).from_config(config)
    arguments = set(inspect.signature(type(layer).__init__).parameters) - {"self", "kwargs"}
    assert arguments - set(config) <= UNSET, "a constructor's argument is not in its config"
    for argument in arguments | {"name"}:
        assert getattr(revived, argument, None) == getattr(layer, argument, None), argument  # 3.12 has not all of them


def test_the_examples_differ_from_the_defaults():
    for layer in EXAMPLES:
        for name, parameter in inspect.signature(type(layer).__init__).parameters.items():
            if name not in {"self", "kwargs", *UNSET} and parameter.default is not inspect.Parameter.empty:
                assert getattr(layer, name) != parameter.default, (type(layer).__name__, name)


@pytest.mark.parametrize("layer", [e for e in EXAMPLES if e.name not in "jk"], ids=lambda layer: type(layer).__name__)
def test_symbolic_shape_is_the_real_one(layer):
    layer = type(layer).from_config(layer.get_config())
    y = layer(np.ones((2, 10, 8, 4), "float32"))
    assert tuple(y.shape) == tuple(layer.compute_output_shape((2, 10, 8, 4)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.GRN().build((None, None, None)), "GRN needs a known channel count"),
        (lambda: layers.DropPath(1.0), r"drop path rate must be in \[0, 1\). Received: 1.0"),
        (lambda: layers.DepthwiseConv2D(4), "kernel_size must be odd.*Received: 4"),
        (lambda: layers.ConvNeXtV2Block(8).build((1, 2, 3, 6)), r"dim=8.*Received: \(1, 2, 3, 6\)"),
        (lambda: layers.Preprocessing(mean=(0.5,)).build((1, 2, 3, 4)), "mean"),
    ],
)
def test_faults_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
