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


def said_elsewhere(program, folder, **options):
    """The lines that a program prints on another backend, with the model and the data of a folder."""
    here = keras.backend.backend()
    there, without = {"torch": ("jax", "torch"), "jax": ("tensorflow", "jax")}.get(here, ("tensorflow", ""))
    paths = {"path": str(folder / "model.keras"), "data": str(folder / "data.npz")}
    program = program.format(**paths, without=without, **options)
    environment = {**os.environ, "KERAS_BACKEND": there}
    command = [sys.executable, "-W", "error::UserWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, trained", [(compiled, False), (compiled, True), (segmenter, True), (synchronized, True)]
)
def test_a_compiled_model_goes_on_elsewhere(data, tmp_path, make, trained):
    model = make()
    if make is not compiled:
        data = kept(tmp_path, data[0], np.random.default_rng(1).integers(0, 3, (6, 8, 8)))
    if trained:
        model.fit(*data, verbose=0)
    model.save(tmp_path / "model.keras")
    numbers, names = said_elsewhere(ELSEWHERE, tmp_path, steps=int(trained))
    np.testing.assert_allclose([float(n) for n in numbers.split()], model.evaluate(*data, verbose=0), rtol=1e-5)
    assert names == "a b c"


DETECTOR_ELSEWHERE = """
import sys
if {without!r}:
    sys.modules[{without!r}] = None
import keras, numpy as np, keras_convnextv2 as kc
model = keras.models.load_model({path!r})
assert type(model.optimizer).__name__ == "AdamW" and int(model.optimizer.iterations) == 1
np.savez({found!r}, **model.predict(np.load({data!r})["images"], verbose=0))
print(*kc.class_names(model))
"""


@pytest.mark.slow
def test_a_detector_finds_the_same_elsewhere(tmp_path):
    network = kc.ConvNeXtV2((1, 1), (8, 12), include_top=False)
    narrow = {"fpn_dim": 8, "rpn_dim": 8, "box_dim": 8, "mask_dim": 8, "mask_convs": 1}
    sizes = {"proposals": 10, "max_detections": 4, "rpn_samples": 8, "roi_samples": 8, "score_threshold": 0.0}
    model = kc.MaskRCNN(network, ["cat", "dog"], **narrow, **sizes)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 48, 3)).astype("uint8")
    targets = {"boxes": np.tile(np.array([4, 6, 30, 24], "float32"), (2, 3, 1)), "classes": np.ones((2, 3), "int32")}
    targets |= {"valid": np.array([[1, 0, 0], [1, 1, 0]], bool), "masks": np.ones((2, 3, 32, 48), "uint8")}
    model.compile(keras.optimizers.AdamW(1e-3))
    model.fit(images, targets, verbose=0)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", images=images)
    found = str(tmp_path / "found.npz")
    assert said_elsewhere(DETECTOR_ELSEWHERE, tmp_path, found=found)[-1] == "cat dog"
    ours = model.predict(images, verbose=0)
    with np.load(found) as theirs:
        assert set(theirs) == set(ours)
        for name, x in ours.items():
            np.testing.assert_allclose(theirs[name], x, rtol=1e-4, atol=1e-3, err_msg=name)


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
