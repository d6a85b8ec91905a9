"""The program of segmentation on drawn shapes: it learns, goes on, two devices do what one does, errors are named."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

import keras_convnextv2 as kc
from training import segment
from training.configs import Segment
from training.data import open_maps
from training.evaluation.segmentation import agreement, numbers
from training.optimizers import learning_rate, matched, segment_rules
from training.run import run
from training.steps import make_predict

BACKEND = keras.backend.backend()
DATA = "shapes:40"
CONFIG = Segment(
    **{"size": "atto", "depths": (1, 1), "dims": (8, 12), "stem_patch_size": 2, "head_channels": 8},
    **{"auxiliary_channels": 6, "image_size": (32, 48), "resize": (), "scale": (0.75, 1.25), "batch_size": 8},
    **{"epochs": 2, "steps": 0, "base_lr": 0.1, "ema": 0.9, "log_every": 2, "workers": 1, "drop_path_rate": 0.1},
    **{"accumulation": 2, "clip_norm": 1.0},
)


def quiet(text, progress=False):
    """Takes the lines of a run."""


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segment") / "run"
    return folder, run(segment.prepare, CONFIG, str(folder), DATA, say=quiet)


def test_it_learns_and_saves_what_it_reports(segmented):
    folder, results = segmented
    assert results["loss"] < results["first_loss"] and results["classes"][-1] == "ground"
    model = keras.models.load_model(folder / "model.keras")
    assert kc.class_names(model) == tuple(results["classes"])
    matrix = agreement(make_predict(model), open_maps(DATA, "test"), window=(32, 48))
    better = max(results["miou"], results["miou_average"])
    assert numbers(matrix)["miou"] == pytest.approx(better, abs=0.05)
    assert results["next"][1].startswith("labels = kc.segmentation.predict(model, picture)")
    assert kc.segmentation.predict(model, np.zeros((40, 50, 3), "uint8")).shape == (40, 50)


def test_a_resumed_run_is_the_uninterrupted_one(segmented, tmp_path):
    folder, results = segmented
    resumed = tmp_path / "resumed"
    shutil.copytree(folder, resumed)
    (resumed / "checkpoints" / "step_00000010.npz").unlink()
    again = run(segment.prepare, CONFIG, str(resumed), DATA, resume=True, say=quiet)
    assert again["miou"] == results["miou"] and again["miou_average"] == results["miou_average"]
    ours, theirs = (np.load(path / "checkpoints" / "step_00000010.npz") for path in (resumed, folder))
    for key in ours.files:
        assert ours[key].tobytes() == theirs[key].tobytes(), key
    assert json.loads((folder / "results.json").read_text())["miou"] == results["miou"]


@pytest.mark.skipif(BACKEND == "torch", reason="trains on one device")
def test_two_devices_are_one_with_synchronized_statistics(tmp_path):
    config = dataclasses.replace(CONFIG, drop_path_rate=0.0, dropout=0.0, synchronized=True, accumulation=1, epochs=1)
    found = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        results = run(segment.prepare, dataclasses.replace(config, devices=devices), str(folder), DATA, say=quiet)
        with np.load(sorted((folder / "checkpoints").glob("step_*.npz"))[-1]) as state:
            found.append(({key: state[key] for key in state.files if key != "meta"}, results["loss"]))
    (ours, loss), (theirs, other) = found
    assert loss == pytest.approx(other, rel=1e-5)
    largest = max(abs(value).max() for key, value in ours.items() if key.startswith("weights/"))
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=0, atol=1e-5 * largest, err_msg=key)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="traces")
def test_photos_of_many_sizes_are_traced_twice():
    model = kc.UPerNet(kc.ConvNeXtV2((1, 1), (4, 6), include_top=False), 3, channels=4, auxiliary_channels=0)
    traced, call = [], model.call
    model.call = lambda images, training=None: traced.append(images.shape) or call(images, training=training)
    predict = make_predict(model, jit=False)
    for size in ((32, 48), (40, 36), (48, 32), (33, 50)):
        images = np.zeros((1, *size, 3), "float32")
        assert predict(images).shape == (1, *size, 3)
    assert len(traced) == 2


def test_rules_give_each_stage_its_rate():
    model = kc.UPerNet(kc.ConvNeXtV2((1, 1, 2, 1), (4, 6, 8, 10), include_top=False), 3, channels=4)
    from keras_convnextv2.layers.network import variables_of

    trainable = {id(v) for v in model.trainable_variables}
    paths = [path for path, v in variables_of(model).items() if id(v) in trainable]
    rows = dict(zip(paths, matched(segment_rules(4, 0.9, 12), paths), strict=True))
    expected = {
        "stem/conv/kernel": (0.9**13, True),
        "stage_2/downsample/conv/kernel": (0.9**13, True),
        "stage_0/block_0/expand/kernel": (0.9**12, True),
        "stage_3/block_0/grn/gamma": (0.9**9, False),
        "norm_2/gamma": (1.0, False),
        "decode_head/pool_1/conv/kernel": (1.0, True),
        "decode_head/fusion/norm/gamma": (1.0, False),
        "auxiliary_head/classifier/bias": (1.0, False),
    }
    for path, (rate, decays) in expected.items():
        assert rows[path] == (pytest.approx(rate), decays), path


def test_the_rate_falls_along_a_line():
    rates = [learning_rate(step, peak=2.0, total_steps=10, warmup_steps=2, power=1.0) for step in range(10)]
    np.testing.assert_allclose(rates, [0, 1, 2, 1.75, 1.5, 1.25, 1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ignored": (300,)}, r"ignored must be values of 0..255. Received: \(300,\)"),
        ({"scale": (2.0, 0.5)}, r"scale must be two factors with 0 < smallest <= largest. Received: \(2.0, 0.5\)"),
        ({"resize": (512,)}, r"resize must be the longer and the shorter side, or none. Received: \(512,\)"),
        ({"resize": (512, 2048)}, r"resize must be the longer and the shorter side, or none. Received: \(512, 2048\)"),
        ({"accumulation": 8}, "accumulation must leave two pictures a part, .* of batch_size 8. Received: 8"),
        ({"image_size": (3, 48)}, r"image_size must be at least the total stride 4. Received: \(3, 48\)"),
        ({"average": "mean"}, "average must be one of all, valid. Received: 'mean'"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_other_classes_than_those_of_the_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match="classes must be 11, those of shapes"):
        run(segment.prepare, dataclasses.replace(CONFIG, classes=7), str(tmp_path / "run"), DATA, say=quiet)
