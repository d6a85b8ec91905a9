"""The UPerNet against transformers', and what a Keras user does with it."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2.kernels.resampling import pooled, resized
from keras_convnextv2.layers.batch_norm import BatchNorm
from keras_convnextv2.layers.network import variables_of
from keras_convnextv2.segmentation.losses import pixel_loss
from keras_convnextv2.weights.matching import expand, measure
from keras_convnextv2.weights.rows import OWN, TABLES
from tests.gradients import gradients_of, values_of

to_numpy = ops.convert_to_numpy
SMALL = {"channels": 8, "auxiliary_channels": 6}
transformers = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("transformers", "torch", "safetensors"))),
    reason="needs transformers, torch and safetensors",
)


def backbone(depths=(1, 1), dims=(8, 12), **options):
    return kc.ConvNeXtV2(depths, dims, include_top=False, **options)


def upernet(classes=5, **options):
    return kc.UPerNet(backbone(), classes, **{**SMALL, **options})


def pictures(count=2, size=(32, 48)):
    return np.random.default_rng(0).uniform(0, 255, (count, *size, 3)).astype("float32")


def label_maps(count=2, size=(32, 48), classes=5):
    return np.random.default_rng(1).integers(0, classes, (count, *size)).astype("uint8")


def close(ours, theirs, tolerance, name=""):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(
        to_numpy(ours), theirs, rtol=0, atol=tolerance * max(abs(theirs).max(), 1e-9), err_msg=name
    )


def test_logits_are_those_of_transformers(oracle):
    pytest.importorskip("safetensors")
    expected = np.load(oracle / "upernet_expected.npz")
    network = backbone((1, 1, 2, 1), (8, 16, 24, 32), include_preprocessing=False)
    model = kc.UPerNet(network, 5, channels=32, auxiliary_channels=16)
    report = kc.load_weights(model, oracle / "mini_upernet_hf.safetensors")
    assert report.format == "huggingface UPerNet" and len(report.loaded) == len(model.weights)
    assert all(name.endswith("num_batches_tracked") for name in report.left_out)
    logits = model.logits(expected["image"])
    close(model(expected["image"]), expected["logits"], 1e-5)
    close(logits["main"], expected["logits_stride4"], 1e-5)
    close(resized(logits["auxiliary"], (96, 128)), expected["aux_logits"], 1e-5)
    for level, x in enumerate(model.backbone(expected["image"]).values(), 1):
        close(x, expected[f"feature{level}"], 1e-5, f"feature{level}")


MMSEGMENTATION = (  # of names in transformers' files; mmpretrain's ConvNeXt and mmsegmentation's heads
    (r"embeddings\.patch_embeddings", "downsample_layers.0.0"),
    (r"embeddings\.layernorm", "downsample_layers.0.1"),
    (r"encoder\.stages\.(\d)\.downsampling_layer", r"downsample_layers.\1"),
    (r"encoder\.stages\.(\d)\.layers", r"stages.\1"),
    ("dwconv", "depthwise_conv"),
    (r"pwconv(\d)", r"pointwise_conv\1"),
    (r"(\d)\.layernorm", r"\1.norm"),
    (r"grn\.weight", "grn.gamma"),
    (r"grn\.bias", "grn.beta"),
    (r"hidden_states_norms\.stage(\d)", lambda found: f"norm{int(found[1]) - 1}"),
    ("batch_norm", "bn"),
    (r"head\.classifier", "head.conv_seg"),
)


def test_logits_are_those_of_transformers_from_names_of_mmsegmentation(oracle, tmp_path):
    files = pytest.importorskip("safetensors.numpy")
    arrays = {}
    for name, array in files.load_file(oracle / "mini_upernet_hf.safetensors").items():
        for theirs, other in MMSEGMENTATION:
            name = re.sub(theirs, other, name)
        arrays[name] = array.ravel().copy() if "grn" in name else array
    files.save_file(arrays, tmp_path / "mmsegmentation.safetensors")
    network = backbone((1, 1, 2, 1), (8, 16, 24, 32), include_preprocessing=False)
    model = kc.UPerNet(network, 5, channels=32, auxiliary_channels=16)
    report = kc.load_weights(model, tmp_path / "mmsegmentation.safetensors")
    assert report.format == "mmsegmentation UPerNet" and len(report.loaded) == len(model.weights)
    expected = np.load(oracle / "upernet_expected.npz")
    logits = model.logits(expected["image"])
    close(logits["main"], expected["logits_stride4"], 1e-5)
    close(resized(logits["auxiliary"], (96, 128)), expected["aux_logits"], 1e-5)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upernet")
    script = pathlib.Path(__file__).with_name("make_upernet.py")
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def same(theirs):
    """A model with the weights of theirs, and what theirs gave."""
    network = backbone((1, 1, 2, 1), (8, 12, 16, 20), include_preprocessing=False)
    model = kc.UPerNet(network, 7, channels=24, auxiliary_channels=12, dropout=0.0, average="valid")
    kc.load_weights(model, theirs / "model.safetensors")
    return model, np.load(theirs / "expected.npz")


def names_of(model):
    """{our path: transformers' name}"""
    size = measure(OWN, {path: tuple(v.shape) for path, v in variables_of(model).items()})
    return {pair.ours: pair.theirs for pair in expand(TABLES["huggingface UPerNet"], size)}


@pytest.mark.slow
@transformers
def test_a_training_step_is_that_of_transformers(same):
    model, expected = same
    images, labels = expected["images"], expected["labels"]
    names = names_of(model)

    def loss():
        return ops.mean(model.sample_losses(images, labels, training=True))

    logits = values_of(lambda: resized(model(images, training=True)["main"], (96, 160)), model)
    close(logits, expected["logits"], 1e-5)
    close(values_of(loss, model), expected["loss"], 1e-5)
    before = [to_numpy(v) for v in model.non_trainable_variables]
    gradients = gradients_of(loss, model)
    paths = {v.path: path for path, v in variables_of(model).items()}
    largest = max(float(expected[f"gradient/{name}"]) for path, name in names.items() if "moving" not in path)
    for path, gradient in gradients.items():
        norm = float(expected[f"gradient/{names[paths[path]]}"])
        np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-3, atol=1e-6 * largest, err_msg=path)
    for variable, value in zip(model.non_trainable_variables, before, strict=True):
        variable.assign(value)


@pytest.mark.slow
@transformers
def test_moving_statistics_are_those_of_torch(same):
    model, expected = same
    model.compile(keras.optimizers.SGD(0.0))
    model.fit(expected["images"], expected["labels"], batch_size=2, verbose=0)
    for path, name in names_of(model).items():
        if "moving" in path:
            close(variables_of(model)[path], expected[f"moving/{name}"], 1e-5, path)


@pytest.mark.slow
@transformers
@pytest.mark.parametrize("auxiliary_channels", [12, 0])
def test_transformers_loads_what_was_written(tmp_path, theirs, same, auxiliary_channels):
    model, _ = same
    if not auxiliary_channels:
        model = kc.UPerNet(model.backbone, 7, channels=24, auxiliary_channels=0)
    report = kc.save_weights_as(model, tmp_path / "written", "huggingface")
    assert not report.left_out and not report.added
    program = """
import sys, numpy as np, torch
from transformers import UperNetForSemanticSegmentation
model, info = UperNetForSemanticSegmentation.from_pretrained(sys.argv[1], output_loading_info=True)
assert not any(info.values()), info
images = torch.tensor(np.load(sys.argv[2])["images"]).permute(0, 3, 1, 2)
with torch.no_grad():
    np.save(sys.argv[3], model.eval()(images).logits.permute(0, 2, 3, 1).numpy())
"""
    command = [sys.executable, "-c", program, tmp_path / "written", theirs / "expected.npz", tmp_path / "y.npy"]
    subprocess.run(command, check=True, capture_output=True)
    close(model(np.load(theirs / "expected.npz")["images"]), np.load(tmp_path / "y.npy"), 1e-5)


@pytest.mark.parametrize("have, want", [((3, 4), (6, 8)), ((5, 7), (13, 4)), ((1, 2), (3, 5))])
def test_resizing_is_bilinear_between_centres(have, want):
    x = np.random.default_rng(0).normal(size=(2, *have, 3)).astype("float32")

    def along(x, axis, n):
        old = x.shape[axis]
        at = np.clip((np.arange(n) + 0.5) * old / n - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        return np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share

    close(resized(x, want), along(along(x, 1, want[0]), 2, want[1]), 1e-5)


@pytest.mark.parametrize("size", [(3, 4), (7, 5), (12, 6)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_pooling_takes_torchs_bins(size, bins):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    expected = np.zeros((2, bins, bins, 3))
    ends = [[(i * n // bins, -(-(i + 1) * n // bins)) for i in range(bins)] for n in size]
    for i, rows in enumerate(ends[0]):
        for j, columns in enumerate(ends[1]):
            expected[:, i, j] = x[:, slice(*rows), slice(*columns)].mean((1, 2))
    close(pooled(x, bins), expected, 1e-5)


def test_losses_count_pixels_as_they_are_told():
    logits = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype("float32")
    labels = np.random.default_rng(1).integers(0, 3, (2, 4, 6))
    labels[0, :3] = 255
    shifted = logits - logits.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    found = -np.take_along_axis(logs, np.where(labels == 255, 0, labels)[..., None], -1)[..., 0] * (labels != 255)
    close(pixel_loss(logits, labels), found.mean((1, 2)), 1e-5)
    assert float(ops.mean(pixel_loss(logits, labels[..., None], average="valid"))) == pytest.approx(
        found.sum() / (labels != 255).sum(), rel=1e-5
    )
    nothing = pixel_loss(logits, np.full_like(labels, 255), average="valid")
    assert not to_numpy(nothing).any()


def test_fit_learns_and_a_file_goes_on(tmp_path):
    model = upernet(dropout=0.0)
    x, y = pictures(4), label_maps(4) // 4
    model.compile(keras.optimizers.AdamW(2e-3), metrics=["accuracy"])
    history = model.fit(x, y, batch_size=2, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] and 0 < history["accuracy"][-1] <= 1
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)
    loaded.fit(x, y, verbose=0)


def test_a_loss_of_the_users_own_gets_logits_of_full_size():
    model = upernet()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    found = model.fit(pictures(), label_maps(), verbose=0).history["loss"]
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "labels, weight, message",
    [
        ((2, 16, 48), None, r"labels must have the size .* = \(32, 48\). Received: shape \(2, 16, 48\)."),
        ((2, 32), None, r"labels must have the size .* = \(32, 48\). Received: shape \(2, 32\)."),
        ((2, 32, 48, 5), None, r"labels must be the number of a class .* Received: shape \(2, 32, 48, 5\)."),
        ((2, 32, 48), (2, 32, 48), r"sample_weight must be one number .* label 255. Received: shape \(2, 32, 48\)."),
        ((2, 32, 48), (2, 1), r"sample_weight must be one number .* label 255. Received: shape \(2, 1\)."),
    ],
)
def test_labels_and_weights_that_do_not_fit_are_refused(labels, weight, message):
    model = upernet()
    model.compile("sgd", run_eagerly=True)
    weights = {} if weight is None else {"sample_weight": np.ones(weight, "float32")}
    with pytest.raises(ValueError, match=message):
        model.evaluate(pictures(), np.zeros(labels, "uint8"), verbose=0, **weights)
    if weight is None:
        with pytest.raises(ValueError, match=message):
            model.sample_losses(pictures(), np.zeros(labels, "uint8"))


@pytest.mark.parametrize("use", ["fit", "evaluate"])
def test_a_label_outside_of_the_classes_is_an_error_where_it_can_be_read(use):
    model, labels = upernet(auxiliary_channels=0), label_maps().astype("int32")
    model.compile("sgd", run_eagerly=True)
    labels[1, 3, 4] = 7
    with pytest.raises(ValueError, match="labels must be in 0..4 or 255. Received: 7."):
        getattr(model, use)(pictures(), labels, verbose=0)


@pytest.mark.parametrize("label", [5, -1, 256])
def test_every_label_outside_of_the_classes_is_one(label):
    model, labels = upernet(), label_maps().astype("int32")
    model.compile("sgd")
    labels[1, 3, 4] = label
    with pytest.raises(ValueError, match=f"labels must be in 0..4 or 255. Received: {label}."):
        model.compute_loss(y=ops.convert_to_tensor(labels), y_pred={"main": ops.zeros((2, 8, 12, 5))})


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="compiles nothing")
def test_a_label_outside_of_the_classes_makes_a_compiled_loss_nan():
    model, labels = upernet(), label_maps()
    model.compile("sgd")
    labels[1, 3, 4] = 7
    assert np.isnan(model.fit(pictures(), labels, verbose=0).history["loss"]).all()
    assert all(np.isfinite(value).all() for value in model.get_weights())


def test_a_label_outside_of_the_classes_trains_nothing():
    model, labels = upernet(dropout=0.0), label_maps()

    def loss_of(label):
        labels[1, 3, 4] = label
        return lambda: ops.mean(model.sample_losses(pictures(), labels))

    losses = model.sample_losses(pictures(), np.where(labels == 4, 7, labels))
    assert np.isnan(to_numpy(losses)).all()
    left_out, outside = (gradients_of(loss_of(label), model) for label in (255, 7))
    for path, gradient in left_out.items():
        np.testing.assert_array_equal(outside[path], gradient, err_msg=path)


def test_images_without_labels_are_refused():
    model = upernet()
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="labels must be the number of a class for each pixel, .* Received: none."):
        model.evaluate(pictures(), verbose=0)


def test_weights_of_classes_are_refused():
    model = upernet()
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"class_weight must be None: a picture has many .* Received: \{0: 2.0\}."):
        model.fit(pictures(), label_maps(), class_weight={0: 2.0})


def test_a_weight_for_each_picture_counts():
    model = upernet(auxiliary_channels=0)  # evaluate has no auxiliary loss
    model.compile("sgd")
    x, y, weights = pictures(), label_maps(), np.array([0.0, 2.0], "float32")
    found = model.evaluate(x, y, sample_weight=weights, batch_size=2, verbose=0)
    losses = to_numpy(model.sample_losses(x, y))
    assert found == pytest.approx(losses[1], rel=1e-4)


def test_config_keeps_every_argument_but_synchronized():
    options = {"channels": 8, "pool_scales": (1, 3), "auxiliary_channels": 0, "dropout": 0.2, "ignore": 7}
    model = kc.UPerNet(backbone(), ["a", "b"], **options, average="valid", synchronized=True, name="mine")
    model.decode_head.fusion.trainable = False
    revived = kc.UPerNet.from_config(model.get_config())
    for name, value in {**options, "average": "valid", "classes": ("a", "b"), "name": "mine"}.items():
        assert getattr(revived, name) == value, name
    assert not revived.decode_head.fusion.trainable and revived.decode_head.pools[0].trainable
    assert not revived.synchronized and kc.class_names(revived) == ("a", "b")
    assert [v.shape for v in revived.weights] == [v.shape for v in model.weights]


@pytest.mark.parametrize("stem, sizes", [(4, (32, 48)), (2, (24, 20)), (1, (9, 14))])
def test_any_stem_and_any_size(stem, sizes):
    model = kc.UPerNet(backbone(stem_patch_size=stem), 3, **SMALL)
    for height, width in (sizes, (sizes[0] + 3, sizes[1] + 5)):
        images = pictures(1, (height, width))
        assert model(images).shape == (1, height, width, 3)
        assert model.logits(images)["main"].shape == (1, height // stem, width // stem, 3)
    assert model.predict(images, verbose=0).shape == (1, height, width, 3)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_answers_in_float32(policy):
    exact = upernet()
    mixed = kc.UPerNet(backbone(dtype=policy), 5, **SMALL)
    mixed.set_weights(exact.get_weights())
    assert mixed.decode_head.compute_dtype == policy.removeprefix("mixed_")
    y = mixed(pictures())
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    np.testing.assert_allclose(to_numpy(y), to_numpy(exact(pictures())), rtol=0, atol=2e-2)


def test_the_backbone_shares_its_weights_and_other_files_fill_it(tmp_path):
    network = backbone(input_shape=(32, 48, 3))
    model = kc.UPerNet(network, 5, **SMALL)
    network.layers[-1].trainable_variables[0].assign_add(np.ones(network.layers[-1].trainable_variables[0].shape))
    assert any(v is network.layers[-1].trainable_variables[0] for v in model.trainable_variables)
    kc.FCMAE(network, decoder_dim=8).save_weights(tmp_path / "fcmae.weights.h5")
    other = upernet()
    report = kc.load_weights(other, tmp_path / "fcmae.weights.h5")
    assert {path.split("/")[0] for path in report.untouched} == {"norm_0", "norm_1", "decode_head", "auxiliary_head"}
    model.save_weights(tmp_path / "upernet.weights.h5")
    assert len(kc.load_weights(other, tmp_path / "upernet.weights.h5").loaded) == len(model.weights)
    np.testing.assert_array_equal(to_numpy(other(pictures())), to_numpy(model(pictures())))


def test_a_classifier_of_other_classes_is_left_out_on_demand(tmp_path):
    model, other = upernet(), upernet(3)
    model.save_weights(tmp_path / "five.weights.h5")
    with pytest.raises(ValueError, match="a head of 5 classes, the model one of 3"):
        kc.load_weights(other, tmp_path / "five.weights.h5")
    report = kc.load_weights(other, tmp_path / "five.weights.h5", skip_head=True)
    assert set(report.untouched) == {
        f"{head}_head/classifier/{name}" for head in ("decode", "auxiliary") for name in ("kernel", "bias")
    }


def test_frozen_statistics_stay():
    layer = BatchNorm()
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 3)).astype("float32")
    layer(x, training=True)
    moved = to_numpy(layer.moving_mean)
    assert abs(moved).min() > 0
    layer.trainable = False
    layer(x, training=True)
    np.testing.assert_array_equal(to_numpy(layer.moving_mean), moved)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"average": "mean"}, "average must be one of 'all', 'valid'. Received: 'mean'."),
        ({"pool_scales": (0, 2)}, r"pool_scales must be positive numbers. Received: \(0, 2\)."),
        ({"classes": 3.0}, "classes must be a positive int, or names. Received: 3.0."),
        ({"classes": 0}, "classes must be a positive int, or names. Received: 0."),
        ({"classes": ("a", "a")}, "class_names must be 2"),
        ({"classes": 300}, "ignore must be none of the classes 0..299. Received: 255."),
        ({"channels": 0}, "channels must be positive, .* Received: channels=0, auxiliary_channels=6."),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        upernet(**arguments)


def test_a_backbone_of_one_stage_is_refused():
    with pytest.raises(ValueError, match="UPerNet needs a backbone of two stages at least. Received: one of 1."):
        kc.UPerNet(backbone((1,), (8,)), 5)


SERVE = """
import json, sys
sys.modules["keras_convnextv2"] = sys.modules["keras"] = None  # importing them would fail
import numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
for name in ("small", "large"):
    images = np.load(f"{sys.argv[2]}/{name}.npy")
    logits, labels = served.serve(images.astype("uint8")).numpy(), served.label_map(images).numpy()
    assert labels.dtype == np.int32 and (labels == served.serve(images).numpy().argmax(-1)).all()
    np.save(f"{sys.argv[2]}/{name}_y.npy", logits)
assert sorted(served.signatures) == ["label_map", "serving_default"]
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow")
def test_tensorflow_alone_gives_the_same_answer_for_any_size(tmp_path):
    model = upernet(classes=["a", "b", "c"])
    sizes = {"small": (32, 48), "large": (45, 70)}
    images = {name: np.floor(pictures(2, size)) for name, size in sizes.items()}
    for name, batch in images.items():
        np.save(tmp_path / f"{name}.npy", batch)
    path = kc.export_model(model, str(tmp_path / "saved"), verbose=False)
    subprocess.run([sys.executable, "-c", SERVE, path, str(tmp_path)], check=True, capture_output=True)
    for name, batch in images.items():
        close(np.load(tmp_path / f"{name}_y.npy"), to_numpy(model(batch)), 1e-4, name)
    assert (tmp_path / "saved" / "class_names.json").is_file()


def test_one_value_a_channel_changes_no_moving_statistics():
    layer = BatchNorm()
    layer(np.full((1, 1, 1, 3), 5, "float32"), training=True)
    np.testing.assert_array_equal(to_numpy(layer.moving_variance), np.ones(3))
    np.testing.assert_array_equal(to_numpy(layer.moving_mean), np.zeros(3))


def test_timm_gets_an_encoder_and_transformers_four_stages_alone(tmp_path):
    pytest.importorskip("safetensors")
    network = backbone((1, 1, 1, 1), (4, 6, 8, 10))
    kc.save_weights_as(kc.UPerNet(network, 3, **SMALL), tmp_path / "timm", "timm")
    assert '"num_classes": 0' in (tmp_path / "timm" / "config.json").read_text()
    with pytest.raises(ValueError, match="auxiliary head reads the third of 4 maps. Received: a model of 2 stages"):
        kc.save_weights_as(upernet(), tmp_path / "two", "huggingface")
