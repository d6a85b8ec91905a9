"""A compiled model goes on in another process, on another backend, and without the one that wrote it."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_convnextv2 as kc

ELSEWHERE = """
import sys
if {without!r}:
    sys.modules[{without!r}] = None  # as if it were not installed
import keras, numpy as np, keras_convnextv2 as kc
model = keras.models.load_model({path!r})
images, labels = np.load({data!r}).values()
assert type(model.optimizer).__name__ == "AdamW" and int(model.optimizer.iterations) == {steps}, model.optimizer
print(*model.evaluate(images, labels, verbose=0))
model.fit(images, labels, verbose=0)
assert int(model.optimizer.iterations) == {steps} + 1
print(*kc.class_names(model))
"""


def compiled():
    """A classifier."""
    model = kc.ConvNeXtV2((1,), (4,), classes=["a", "b", "c"], input_shape=(8, 8, 3))
    loss = keras.losses.SparseCategoricalCrossentropy()
    model.compile(keras.optimizers.AdamW(0.01), loss, metrics=["accuracy"])
    return model


def segmenter(**options):
    network = kc.ConvNeXtV2((1, 1), (4, 6), include_top=False, stem_patch_size=2)
    model = kc.UPerNet(network, ["a", "b", "c"], channels=4, auxiliary_channels=4, **options)
    model.compile(keras.optimizers.AdamW(0.01), metrics=["accuracy"])
    return model


def synchronized():
    return segmenter(synchronized=True)


@pytest.fixture
def data(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype("uint8"), np.arange(6) % 3
    return kept(tmp_path, images, labels)


def kept(folder, images, labels):
    np.savez(folder / "data.npz", images=images, labels=labels)
    return images, labels


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, trained", [(compiled, False), (compiled, True), (segmenter, True), (synchronized, True)]
)
def test_a_compiled_model_goes_on_elsewhere(data, tmp_path, make, trained):
    here = keras.backend.backend()
    model = make()
    if make is not compiled:
        data = kept(tmp_path, data[0], np.random.default_rng(1).integers(0, 3, (6, 8, 8)))
    if trained:
        model.fit(*data, verbose=0)
    model.save(tmp_path / "model.keras")
    there, without = {"torch": ("jax", "torch"), "jax": ("tensorflow", "jax")}.get(here, ("tensorflow", ""))
    paths = {"path": str(tmp_path / "model.keras"), "data": str(tmp_path / "data.npz")}
    program = ELSEWHERE.format(**paths, without=without, steps=int(trained))
    environment = {**os.environ, "KERAS_BACKEND": there}
    command = [sys.executable, "-W", "error::UserWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    numbers, names = done.stdout.splitlines()
    np.testing.assert_allclose([float(n) for n in numbers.split()], model.evaluate(*data, verbose=0), rtol=1e-5)
    assert names == "a b c"


def test_loading_says_nothing_about_an_optimizer_that_has_not_trained(data, tmp_path):  # a warning is an error here
    compiled().save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.fit(*data, verbose=0)
    assert int(loaded.optimizer.iterations) == 1


def test_an_fcmae_too(tmp_path):
    fcmae = kc.FCMAE(kc.ConvNeXtV2((1,), (4,), include_top=False, input_shape=(8, 8, 3)), decoder_dim=4)
    fcmae.compile("adamw")
    fcmae.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer).__name__ == "AdamW"
    assert fcmae.get_compile_config()["optimizer"]["module"] == "keras.optimizers"


def test_an_optimizer_inside_another(tmp_path):
    model = compiled()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), "mse")
    config = model.get_compile_config()["optimizer"]
    assert (config["module"], config["config"]["inner_optimizer"]["module"]) == ("keras.optimizers",) * 2


@pytest.mark.parametrize(
    "around",
    [
        lambda network: kc.FCMAE(network, decoder_dim=4),
        lambda network: kc.UPerNet(network, 3, channels=4),
        lambda network: kc.MaskRCNN(network, 3, fpn_dim=4, rpn_dim=4, box_dim=4, mask_dim=4),
    ],
)
def test_a_config_can_be_used_twice(around):
    model = around(kc.ConvNeXtV2((1, 1), (4, 6), include_top=False, input_shape=(32, 32, 3)))
    config = model.get_config()
    for _ in range(2):
        made = type(model).from_config(config)
        assert [v.path for v in made.weights] == [v.path for v in model.weights]
