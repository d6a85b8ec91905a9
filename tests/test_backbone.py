"""The eight models and what a Keras user does with them."""

import importlib.util
import inspect
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2.backbone import drop_path_ladder
from keras_convnextv2.layers.initial import InitialNormal
from keras_convnextv2.layers.network import variables_of
from keras_convnextv2.sizes import SIZES

BACKEND = keras.backend.backend()
MINI = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
TWO_STAGES = {"depths": (1, 2), "dims": (8, 12)}  # where a whole training step is compiled
to_numpy = ops.convert_to_numpy

# Parameters with a head of 1000 classes, with the final norm only, of the encoder alone: counted from the formula of
# the layers and equal to timm's models.
PARAMETERS = {
    "atto": (3_708_400, 3_387_400, 3_386_760),
    "femto": (5_233_240, 4_848_240, 4_847_472),
    "pico": (9_066_280, 8_553_280, 8_552_256),
    "nano": (15_623_800, 14_982_800, 14_981_520),
    "tiny": (28_635_496, 27_866_496, 27_864_960),
    "base": (88_717_800, 87_692_800, 87_690_752),
    "large": (197_956_840, 196_419_840, 196_416_768),
    "huge": (660_289_640, 657_472_640, 657_467_008),
}


def mini(**kwargs):
    return kc.ConvNeXtV2(**{**MINI, "input_shape": (64, 96, 3), "classes": 5, **kwargs})


def pictures(count=4, shape=(64, 96, 3), seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, *shape)).astype("float32")


def constructor(size):
    return getattr(kc, f"ConvNeXtV2{size.capitalize()}")


def zeros_instead_of_draws(monkeypatch):
    # The three largest hold up to 660 million numbers; their count does not depend on the draw.
    monkeypatch.setattr(InitialNormal, "__call__", lambda self, shape, dtype=None: ops.zeros(shape, dtype))


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts_are_the_published_ones(monkeypatch, size):
    zeros_instead_of_draws(monkeypatch)
    model = constructor(size)()
    head = sum(int(np.prod(v.shape)) for v in model.get_layer("head").weights)
    norm = sum(int(np.prod(v.shape)) for v in model.get_layer("norm").weights)
    total = model.count_params()
    assert (total, total - head, total - head - norm) == PARAMETERS[size]


def test_headless_models_hold_what_they_use():
    assert constructor("atto")(include_top=False).count_params() == PARAMETERS["atto"][2]
    assert constructor("atto")(include_top=False, pooling="avg").count_params() == PARAMETERS["atto"][1]


def test_variable_paths_are_the_public_names():
    paths = [v.path for v in mini().weights]
    assert len(set(paths)) == len(paths)
    for path in (
        "stem/conv/kernel",
        "stem/norm/gamma",
        "stage_1/downsample/norm/beta",
        "stage_1/downsample/conv/kernel",
        "stage_2/block_1/depthwise/kernel",
        "stage_2/block_1/grn/gamma",
        "stage_2/block_1/project/bias",
        "norm/gamma",
        "head/kernel",
    ):
        assert path in paths


def test_initial_weights_follow_the_reference():
    model = kc.ConvNeXtV2Atto(head_init_scale=0.1)
    values = {v.path: to_numpy(v) for v in model.weights}
    scales = {"stage_2/block_0/expand/kernel": 1, "stage_3/downsample/conv/kernel": 1, "head/kernel": 0.1}
    for path, scale in scales.items():
        kernel = values[path]
        assert abs(kernel.std() / (0.02 * scale) - 1) < 0.02
        assert np.abs(kernel).max() > 3.5 * 0.02 * scale, "a plain normal, not one cut at two deviations"
    assert not np.array_equal(values["stage_2/block_0/expand/kernel"], values["stage_2/block_1/expand/kernel"])
    zero = ("bias", "grn/gamma", "grn/beta", "norm/beta")
    assert all(not values[path].any() for path in values if path.endswith(zero))
    assert all((values[path] == 1).all() for path in values if path.endswith("norm/gamma"))


def test_drop_path_ladder_has_both_ends():
    ladder = drop_path_ladder(0.3, (1, 1, 2, 1))
    np.testing.assert_allclose(np.concatenate(ladder), np.linspace(0, 0.3, 5))
    assert [len(stage) for stage in ladder] == [1, 1, 2, 1]


@pytest.mark.parametrize("stem, stride", [(1, 8), (2, 16), (4, 32)])
def test_stem_patch_sizes(stem, stride):
    model = mini(include_top=False, stem_patch_size=stem)
    assert model.output_shape == (None, 64 // stride, 96 // stride, 32)


def test_dynamic_sizes_drop_the_remainder():
    model = mini(include_top=False, input_shape=(None, None, 3), include_preprocessing=False)
    x = pictures(shape=(70, 101, 3))
    # The stem drops two rows and one column; what the later stages drop was seen by the convolutions before.
    np.testing.assert_allclose(to_numpy(model(x)), to_numpy(model(x[:, :68, :100])), rtol=0, atol=1e-5)
    assert model(x).shape == (4, 2, 3, 32)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channel_counts_take_the_mean_of_the_colours(channels):
    model = mini(input_shape=(64, 96, channels))
    y = to_numpy(model.get_layer("preprocessing")(np.full((1, 2, 3, channels), 127.5)))
    np.testing.assert_allclose(y, (0.5 - np.mean([0.485, 0.456, 0.406])) / np.mean([0.229, 0.224, 0.225]), rtol=1e-5)
    given = mini(input_shape=(64, 96, channels), mean=(0.5,) * channels, std=(0.1,) * channels)
    assert np.abs(to_numpy(given.get_layer("preprocessing")(np.full((1, 2, 3, channels), 127.5)))).max() < 1e-6


def test_pictures_of_any_number_type_give_the_same_answer():
    model = mini()
    x = pictures().astype("uint8")
    expected = model.predict(x.astype("float32"), verbose=0)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=0, atol=1e-6)
    raw = mini(include_preprocessing=False)
    raw.set_weights(model.get_weights())
    np.testing.assert_allclose(raw.predict(to_numpy(kc.normalize(x)), verbose=0), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling, reduce", [("avg", np.mean), ("max", np.max)])
def test_pooling(pooling, reduce):
    model = mini(include_top=False, pooling=pooling)
    x = reduce(to_numpy(keras.Model(model.input, model.get_layer("stage_3").output)(pictures())), axis=(1, 2))
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(to_numpy(model(pictures())), expected, rtol=0, atol=2e-5)


def test_input_tensor_and_weights_from_a_model():
    images = keras.Input((64, 96, 3))
    source = mini(include_top=False)
    with pytest.warns(UserWarning, match="new in 'convnextv2': head and norm"):
        model = mini(input_tensor=images, weights=source)
    assert model.inputs[0] is images
    for v in source.weights:
        np.testing.assert_array_equal(to_numpy(v), to_numpy(variables_of(model)[v.path]))


def test_pyramid_with_norms():
    maps = kc.pyramid(mini(include_top=False), norm=True)(pictures())
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "P2": (4, 16, 24, 8),
        "P3": (4, 8, 12, 16),
        "P4": (4, 4, 6, 24),
        "P5": (4, 2, 3, 32),
    }
    assert abs(to_numpy(maps["P3"]).mean(-1)).max() < 1e-5


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_computes_in_half_and_answers_in_float32(policy):
    exact, mixed = mini(), mini(dtype=policy)
    mixed.set_weights([w + 0.1 * np.sin(np.arange(w.size)).reshape(w.shape) for w in exact.get_weights()])
    exact.set_weights(mixed.get_weights())
    y = mixed(pictures())
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    assert mixed.get_layer("stage_1").compute_dtype == policy.removeprefix("mixed_")
    assert all(v.dtype == "float32" for v in mixed.trainable_variables)
    np.testing.assert_allclose(to_numpy(y), to_numpy(exact(pictures())), rtol=0, atol=2e-2)


def test_float16_training_scales_the_loss():
    model = mini(**TWO_STAGES, dtype="mixed_float16")
    model.compile("adam", "sparse_categorical_crossentropy")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    fcmae = kc.FCMAE(mini(**TWO_STAGES, include_top=False, dtype="mixed_float16"), decoder_dim=8)
    fcmae.compile("adam")
    assert isinstance(fcmae.optimizer, keras.optimizers.LossScaleOptimizer)
    before = model.get_weights()
    model.fit(pictures(2), np.arange(2), verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def tf_dataset(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(3)  # the batch size is None, the last batch smaller


class Sequence(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return self.x[3 * i : 3 * i + 3], self.y[3 * i : 3 * i + 3]


@pytest.mark.parametrize("kind", ["arrays", "tf.data", "PyDataset"])
def test_fit_learns_from_every_kind_of_data_set(kind):
    x, y = pictures(5), np.arange(5)
    model = mini(**TWO_STAGES, drop_path_rate=0.2, remat=kind == "arrays", seed=1)
    model.compile(keras.optimizers.AdamW(3e-3), "sparse_categorical_crossentropy")
    if kind == "arrays":
        data = {"x": x, "y": y, "batch_size": 3}
    elif kind == "tf.data":
        if importlib.util.find_spec("tensorflow") is None:
            pytest.skip("tf.data needs TensorFlow")
        data = {"x": tf_dataset(x, y)}
    else:
        data = {"x": Sequence(x, y)}
    losses = model.fit(**data, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert model.predict(x, verbose=0).shape == (5, 5)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("mixed_bfloat16", 5e-2)])
def test_remat_has_the_gradients_of_the_plain_model(dtype, tolerance):
    from tests.gradients import gradients_of

    x = pictures(2)
    results = []
    for remat in (False, True):
        model = mini(**TWO_STAGES, remat=remat, classifier_activation=None, dtype=dtype)
        for v in model.weights:
            v.assign(0.1 * np.sin(np.arange(np.prod(v.shape))).reshape(v.shape) + (0.5 if "gamma" in v.path else 0))
        results.append(gradients_of(lambda model=model: ops.mean(ops.square(model(x, training=True))), model))
    for path, gradient in results[0].items():
        scale = max(np.abs(gradient).max(), 1e-6)
        np.testing.assert_allclose(results[1][path], gradient, rtol=0, atol=tolerance * scale, err_msg=path)


LOAD = """
import sys, numpy as np, keras, keras_convnextv2
model = keras.saving.load_model(sys.argv[1])
x = np.random.default_rng(0).uniform(0, 255, (4, 64, 96, 3)).astype("float32")
np.save(sys.argv[2], keras.ops.convert_to_numpy(model(x)))
"""


@pytest.mark.parametrize("other", ["tensorflow", "jax", "torch"])
def test_a_keras_file_loads_on_the_other_backends(tmp_path, other):
    if other == BACKEND:
        pytest.skip("the same backend is covered by every other test")
    if importlib.util.find_spec(other) is None:  # asked without importing it: TensorFlow and torch share no process
        pytest.skip(f"{other} is not installed")
    model = mini(drop_path_rate=0.1)
    model.save(tmp_path / "model.keras")
    root = pathlib.Path(__file__).parents[1]
    environment = {**os.environ, "KERAS_BACKEND": other, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", LOAD, str(tmp_path / "model.keras"), str(tmp_path / "y.npy")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), to_numpy(model(pictures())), rtol=0, atol=1e-6)


def test_config_round_trip():
    model = mini(drop_path_rate=0.1, stem_patch_size=2, remat=True, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 2.0))
    config = json.loads(json.dumps(model.get_config()))
    revived = keras.Model.from_config(config) if "layers" in config else type(model).from_config(config)
    revived.set_weights(model.get_weights())
    np.testing.assert_allclose(to_numpy(revived(pictures())), to_numpy(model(pictures())), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"input_shape": (16, 40, 3)}, r"at least 32 x 32, the network's total stride. Received: \(16, 40\)"),
        ({"depths": (1, 0, 1, 1)}, r"must be positive. Received: depths=\(1, 0, 1, 1\)"),
        ({"dims": (8, 16)}, r"same length. Received: depths=\(1, 1, 2, 1\), dims=\(8, 16\)"),
        ({"pooling": "mean"}, "pooling must be None, 'avg' or 'max'. Received: 'mean'"),
        ({"classes": 0}, "classes must be a positive int, or names. Received: 0"),
        ({"stem_patch_size": 0}, "stem_patch_size must be a positive int.*Received: 0"),
        ({"input_shape": (64, 96)}, r"input_shape must be \(height, width, channels\). Received: \(64, 96\)"),
        ({"mean": (0.5, 0.5)}, "mean"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        mini(**arguments)


def test_another_channel_count_is_named():
    with pytest.raises(ValueError, match="value 3, but received input with shape"):
        mini()(pictures(1, (64, 96, 1)))


def test_constructors_show_their_arguments():
    parameters = inspect.signature(kc.ConvNeXtV2Nano).parameters
    assert list(parameters) == list(inspect.signature(kc.ConvNeXtV2).parameters)[2:]
    assert parameters["name"].default == "convnextv2_nano" and kc.ConvNeXtV2Nano.__name__ == "ConvNeXtV2Nano"


def test_a_small_picture_is_named_when_the_size_is_dynamic():
    with pytest.raises(ValueError, match=r"at least 32 x 32.*Received: \(31, 64\)"):
        mini(input_shape=(None, None, 3))(pictures(1, (31, 64, 3)))
