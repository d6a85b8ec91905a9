"""The whole network and FCMAE against stored numbers of other implementations (tests/golden/make_golden.py)."""

import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_convnextv2.backbone import ConvNeXtV2, pyramid
from keras_convnextv2.fcmae import FCMAE
from tests.gradients import gradients_of, values_of

GOLDEN = pathlib.Path(__file__).parent / "golden"
to_numpy = ops.convert_to_numpy


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key].astype("float32") for key in file if key != "source"}


def take_weights(model, arrays):
    """Every golden weight into the variable of its path; every variable is set."""
    weights = {key.removeprefix("weights/"): w for key, w in arrays.items() if key.startswith("weights/")}
    variables = {v.path: v for v in model.weights}
    assert set(variables) == set(weights)
    for path, variable in variables.items():
        variable.assign(weights[path])


@pytest.fixture(scope="module")
def network():
    arrays = golden("network")
    model = ConvNeXtV2(
        (1, 1, 2, 1),
        (8, 16, 24, 32),
        include_preprocessing=False,
        input_shape=(44, 72, 3),
        classes=7,
        classifier_activation=None,
    )
    take_weights(model, arrays)
    return model, arrays


def test_logits_pooled_features_and_stage_maps(network):
    model, arrays = network
    inner = {"pooled": model.get_layer("norm").output, "logits": model.output}
    inner |= {f"stage_{s}": model.get_layer(f"stage_{s}").output for s in range(4)}
    outputs = keras.Model(model.input, inner).predict_on_batch(arrays["images"])
    for name, y in outputs.items():
        np.testing.assert_allclose(to_numpy(y), arrays[name], rtol=0, atol=1e-5, err_msg=name)


def test_pyramid_names_the_stage_maps(network):
    model, arrays = network
    maps = pyramid(model).predict_on_batch(arrays["images"])
    assert list(maps) == ["P2", "P3", "P4", "P5"]
    for s, name in enumerate(maps):
        np.testing.assert_allclose(to_numpy(maps[name]), arrays[f"stage_{s}"], rtol=0, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def fcmae():
    arrays = golden("fcmae")
    backbone = ConvNeXtV2((1, 2, 1), (8, 12, 16), include_top=False, include_preprocessing=False)
    model = FCMAE(backbone, decoder_dim=8)
    take_weights(model, arrays)
    return model, arrays, arrays["visible"].astype("int32")


def test_encoder_output_prediction_and_sample_losses(fcmae):
    model, arrays, visible = fcmae
    images = arrays["images"]

    def everything():
        return (
            model.encode(images, visible),
            model({"images": images, "visible": visible}),
            model.sample_losses(images, visible),
        )

    encoded, prediction, losses = map(to_numpy, values_of(everything, model))
    np.testing.assert_allclose(encoded, arrays["encoded"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(prediction, arrays["prediction"], rtol=0, atol=2e-5)
    assert losses.shape == (2,)
    np.testing.assert_allclose(losses.mean(), arrays["loss_norm_pix"], rtol=1e-5)


@pytest.mark.parametrize("norm_pix_loss, name", [(True, "loss_norm_pix"), (False, "loss_plain")])
def test_loss(fcmae, norm_pix_loss, name):
    model, arrays, visible = fcmae
    judge = FCMAE(model.backbone, decoder_dim=8, norm_pix_loss=norm_pix_loss)  # the loss alone needs no decoder
    loss = to_numpy(judge.reconstruction_loss(arrays["images"], arrays["prediction"], visible))
    np.testing.assert_allclose(loss, arrays[name], rtol=1e-5)


@pytest.mark.parametrize("dense", [False, True])
def test_every_gradient(fcmae, dense):
    model, arrays, visible = fcmae
    images = ops.convert_to_tensor(arrays["images"])
    gradients = gradients_of(lambda: ops.mean(model.sample_losses(images, visible, dense=dense)), model)
    for path, gradient in gradients.items():
        expected = arrays[f"gradients/{path}"]
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol, err_msg=path)
