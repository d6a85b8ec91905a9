"""Whole networks against other people's implementations, in float32 on every backend.

Expected values lie in the oracle folder; Hugging Face's are made on the spot where transformers and torch are there.
"""

import importlib.util
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from tests.gradients import gradients_of, values_of

LOGITS = 2e-5  # absolute; the smallest real mistake, an epsilon of 1e-5 in the norms, shows as 3.4e-5
HALF = 3e-3  # of a map's largest value; the maps are stored as float16
MINI = ((1, 1, 2, 1), (8, 16, 24, 32))
to_numpy = ops.convert_to_numpy


def arrays_of(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def outputs_at(model, names):
    """A model with several inner outputs: one compilation serves all comparisons."""
    return keras.Model(model.input, {key: model.get_layer(name).output for key, name in names.items()})


def close(y, expected, atol, name=""):
    np.testing.assert_allclose(to_numpy(y), expected.astype("float32"), rtol=0, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def atto(oracle):
    model = kc.ConvNeXtV2Atto(
        include_preprocessing=False, input_shape=(None, None, 3), classifier_activation=None, name="atto"
    )
    kc.load_weights(model, oracle / "atto_timm.safetensors")
    return model


@pytest.mark.parametrize("picture", ["square", "wide"])
def test_atto(oracle, atto, picture):
    expected = arrays_of(oracle / "atto_expected.npz")
    outputs = outputs_at(atto, {"logits": "head", "pooled": "norm"}).predict_on_batch(expected[f"image_{picture}"])
    close(outputs["logits"], expected[f"logits_{picture}"], LOGITS)
    close(outputs["pooled"], expected[f"pooled_{picture}"], LOGITS)


def test_atto_pyramid(oracle, atto):
    expected = arrays_of(oracle / "atto_expected.npz")
    maps = kc.pyramid(atto).predict_on_batch(expected["image_square"])
    for s, name in enumerate(("P2", "P3", "P4", "P5"), start=1):
        values = expected[f"stage{s}_square"].astype("float32")
        close(maps[name], values, HALF * np.abs(values).max(), name)


def test_atto_without_top_pools_the_same_features(oracle):
    expected = arrays_of(oracle / "atto_expected.npz")
    model = kc.ConvNeXtV2Atto(include_top=False, include_preprocessing=False, pooling="avg")
    kc.load_weights(model, oracle / "atto_official.pt")
    close(model.predict_on_batch(expected["image_wide"]), expected["pooled_wide"], LOGITS)


def test_mini(oracle):
    expected = arrays_of(oracle / "mini_expected.npz")
    options = {"input_shape": (64, 96, 3), "classes": 7, "classifier_activation": None}
    model = kc.ConvNeXtV2(*MINI, include_preprocessing=False, **options)
    kc.load_weights(model, oracle / "mini_official.pt")
    names = {"logits": "head", "pooled": "norm"} | {f"stage{s + 1}": f"stage_{s}" for s in range(4)}
    outputs = outputs_at(model, names).predict_on_batch(expected["image"])
    for name in names:
        atol = LOGITS if name in ("logits", "pooled") else 3e-5
        close(outputs[name], expected[name], atol, name)


# FCMAE

FCMAES = {"atto": (kc.ConvNeXtV2Atto, 512), "mini": (lambda **options: kc.ConvNeXtV2(*MINI, **options), 16)}


@pytest.fixture(scope="module", params=["mini", "atto"])
def fcmae(request, oracle):
    constructor, width = FCMAES[request.param]
    model = kc.FCMAE(constructor(include_top=False, include_preprocessing=False), decoder_dim=width)
    kc.load_weights(model, oracle / f"{request.param}_fcmae_script.pt")
    expected = arrays_of(oracle / f"{request.param}_fcmae_expected.npz")
    visible = np.stack([np.flatnonzero(row == 0) for row in expected["mask"]]).astype("int32")
    image = expected["image"]
    results = values_of(lambda: (model.encode(image, visible), model({"images": image, "visible": visible})), model)
    return model, expected, visible, *map(to_numpy, results)


def test_fcmae_encoder(fcmae):
    _, expected, _, encoded, _ = fcmae
    close(encoded, expected["encoder_output"], 3e-5)


def test_fcmae_prediction_and_both_losses(fcmae):
    model, expected, visible, _, prediction = fcmae
    values = expected["prediction"].astype("float32").reshape(prediction.shape)
    atol = HALF * np.abs(values).max() if expected["prediction"].dtype == np.float16 else 3e-5
    close(prediction, values, atol)
    for norm_pix_loss, name in ((True, "loss_norm_pix"), (False, "loss_plain")):
        judge = kc.FCMAE(model.backbone, decoder_dim=8, norm_pix_loss=norm_pix_loss)  # a loss needs no decoder
        loss = to_numpy(judge.reconstruction_loss(expected["image"], prediction, visible))
        np.testing.assert_allclose(loss, expected[name], rtol=1e-5, err_msg=name)


# their name in `grad_names`, without "encoder." -> the path of our variable
THEIR_MODULES = {
    "dwconv": "depthwise",
    "norm": "norm",
    "pwconv1": "expand",
    "grn": "grn",
    "pwconv2": "project",
}


def our_path(name):
    """The variable that a parameter of the reference's FCMAE is; written by hand, apart from the package's tables."""
    *modules, leaf = name.removeprefix("encoder.").split(".")
    if leaf == "mask_token":
        return "decoder/mask_token"
    if modules[0] in ("proj", "pred"):
        path, is_norm = f"decoder/{modules[0]}", False
    elif modules[0] == "downsample_layers":
        is_norm = (modules[1] == "0") == (modules[2] == "1")  # the stem norms last, the others first
        place = "stem" if modules[1] == "0" else f"stage_{modules[1]}/downsample"
        path = f"{place}/{'norm' if is_norm else 'conv'}"
    else:
        place = f"stage_{modules[1]}/block_{modules[2]}" if modules[0] == "stages" else f"decoder/block_{modules[1]}"
        path, is_norm = f"{place}/{THEIR_MODULES[modules[-1]]}", modules[-1] in ("norm", "grn")
    leaves = (
        {"weight": "gamma", "bias": "beta", "gamma": "gamma", "beta": "beta"}
        if is_norm
        else {"weight": "kernel", "bias": "bias"}
    )
    return f"{path}/{leaves[leaf]}"


@pytest.mark.parametrize("fcmae", ["atto"], indirect=True)
def test_fcmae_gradient_norms(fcmae):
    model, expected, visible, _, _ = fcmae
    images = ops.convert_to_tensor(expected["image"])
    gradients = gradients_of(lambda: ops.mean(model.sample_losses(images, visible)), model)
    norms = {path: np.linalg.norm(gradient.astype("float64")) for path, gradient in gradients.items()}
    for name, norm in zip(expected["grad_names"], expected["grad_l2"], strict=True):
        np.testing.assert_allclose(norms[our_path(str(name))], norm, rtol=1e-4, err_msg=str(name))
    np.testing.assert_allclose(np.linalg.norm(list(norms.values())), expected["grad_l2_all"], rtol=1e-4)


# Hugging Face, live


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("transformers", "torch", "safetensors"))),
    reason="needs transformers, torch and safetensors",
)
def test_hugging_face_femto_with_random_weights(tmp_path):
    """Made by another process, since torch and tensorflow in one may not live together."""
    script = pathlib.Path(__file__).with_name("make_hugging_face.py")
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    expected = arrays_of(tmp_path / "expected.npz")
    model = kc.ConvNeXtV2Femto(
        include_preprocessing=False, input_shape=(96, 160, 3), classes=11, classifier_activation=None
    )
    report = kc.load_weights(model, tmp_path / "femto.safetensors")
    assert report.format == "huggingface" and len(report.loaded) == len(model.weights)
    outputs = outputs_at(model, {"logits": "head", "pooled": "norm"}).predict_on_batch(expected["images"])
    close(outputs["logits"], expected["logits"], LOGITS)
    close(outputs["pooled"], expected["pooled"], LOGITS)
