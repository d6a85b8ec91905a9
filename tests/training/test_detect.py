"""The program of detection on drawn shapes: it learns, goes on, devices work as parts do, errors are named."""

import csv
import dataclasses
import json
import shlex
import shutil
import sys

import keras
import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2.layers.network import variables_of
from tests.training.data.conftest import write_picture
from training import detect, detectors, evaluate, predict
from training.configs import Detect
from training.data import Objects, PictureSource, open_objects
from training.devices import ONE
from training.evaluate import Evaluate
from training.evaluation.detection import look_of, numbers, results
from training.optimizers import detect_rules, learning_rate, matched
from training.predict import Predict
from training.run import run
from training.trained import open_trained

BACKEND = keras.backend.backend()
DATA = "shapes:24"
CONFIG = Detect(
    **{"size": "atto", "depths": (1, 1), "dims": (8, 12), "stem_patch_size": 4, "fpn_dim": 8, "rpn_dim": 8},
    **{"box_dim": 12, "mask_dim": 8, "mask_convs": 1, "proposals": 20, "max_detections": 5, "rpn_samples": 16},
    **{"roi_samples": 16, "most_objects": 4, "mask_size": 14, "image_size": (64, 64), "resize": ()},
    **{"scale": (0.75, 1.25), "evaluation_resize": (), "batch_size": 8, "epochs": 2, "base_lr": 0.1, "ema": 0.9},
    **{"log_every": 2, "workers": 1, "drop_path_rate": 0.1, "evaluate_every": 0},
)


def quiet(text, progress=False):
    """Takes the lines of a run."""


@pytest.fixture(scope="module")
def detected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detect") / "the run"
    return folder, run(detect.prepare, CONFIG, str(folder), DATA, say=quiet)


def test_it_learns_and_saves_what_it_reports(detected):
    folder, found = detected
    assert found["loss"] < found["first_loss"]
    model = keras.models.load_model(folder / "model.keras")
    assert kc.class_names(model) == tuple(found["classes"])
    test = open_objects(DATA, "test")
    measured = numbers(*results(model, test, look_of(dataclasses.asdict(CONFIG))), found["classes"])
    suffix = "_average" if found["mask_ap_average"] >= found["mask_ap"] else ""
    for name, number in measured.items():
        assert number == pytest.approx(found[f"{name}{suffix}"], abs=0.2), name
    words = ["--model", str(folder), "--data", "PATH", "--workdir", f"{folder}_seen"]
    assert shlex.split(found["next"][0]) == [sys.executable, "-m", "training.predict", *words]
    seen = kc.detection.predict(model, np.zeros((40, 50, 3), "uint8"))
    assert seen["masks"].shape[1:] == (40, 50)


def test_a_resumed_run_is_the_uninterrupted_one(detected, tmp_path):
    folder, found = detected
    resumed = tmp_path / "resumed"
    shutil.copytree(folder, resumed)
    last = sorted((resumed / "checkpoints").glob("step_*.npz"))[-1]
    last.unlink()
    again = run(detect.prepare, CONFIG, str(resumed), DATA, resume=True, say=quiet)
    assert again["mask_ap"] == found["mask_ap"] and again["ap07_average"] == found["ap07_average"]
    with np.load(last) as ours, np.load(folder / "checkpoints" / last.name) as theirs:
        for key in ours.files:
            assert ours[key].tobytes() == theirs[key].tobytes(), key


def test_a_trained_detector_is_evaluated_and_predicts(detected, tmp_path):
    folder, found = detected
    measured = evaluate.run(Evaluate(), str(folder), DATA, str(tmp_path / "evaluated"), quiet)
    suffix = "_average" if found["mask_ap_average"] >= found["mask_ap"] else ""
    assert measured["box_ap"] == pytest.approx(found[f"box_ap{suffix}"], abs=0.2)
    assert 0 <= measured["box"]["ar10"] <= 1 and measured["protocol"]["max_detections"] == 5
    with (tmp_path / "evaluated" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == found["classes"] and sum(int(row["objects"]) for row in rows) > 0
    assert (tmp_path / "evaluated" / "detections.png").read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "pictures").mkdir()
    keras.utils.save_img(tmp_path / "pictures" / "a.png", np.full((50, 40, 3), 90))
    (tmp_path / "pictures" / "b.png").write_bytes(b"no picture")
    data = [f"folder:{tmp_path / 'pictures'}"]
    seen = predict.run(Predict(), str(folder), data, str(tmp_path / "predicted"), quiet)
    assert (seen["pictures"], seen["unreadable"]) == (2, 1)
    with (tmp_path / "predicted" / "detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == seen["detections"] + 1 and rows[-1]["error"] and not rows[-1]["class"]
    with pytest.raises(ValueError, match="model must be a classifier. Received: .*, a detector"):
        open_trained(str(folder)).classifier()


def test_bad_objects_are_all_named_before_anything_is_computed(detected, tmp_path, monkeypatch):
    images = [{"id": k, "file_name": f"{k}.png", "height": 40, "width": 50} for k in (1, 2)]
    for row in images:
        keras.utils.save_img(tmp_path / row["file_name"], np.zeros((40, 50, 3)), scale=False)
    short = {"size": [40, 50], "counts": [3]}
    rows = [
        {"id": 6 + k, "image_id": k, "category_id": 0, "bbox": [1, 2, 3, 4], "iscrowd": 0, "segmentation": short}
        for k in (1, 2)
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(detected[1]["classes"])]
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        content = {"images": images, "annotations": rows, "categories": categories}
        (tmp_path / "annotations" / f"{split}.json").write_text(json.dumps(content))
    monkeypatch.setattr(detectors, "make_predict", lambda *_, **__: 1 / 0)
    with pytest.raises(ValueError, match=r"Received: 2 that are not: .*object 7: the runs .*; .*object 8: the runs"):
        evaluate.run(Evaluate(), str(detected[0]), f"folder:{tmp_path}", str(tmp_path / "out"), quiet)
    assert not (tmp_path / "out").exists()


def test_each_list_of_a_set_is_measured(detected, tmp_path):
    names = detected[1]["classes"]
    categories = [{"id": k, "name": name} for k, name in enumerate(names)]
    (tmp_path / "annotations").mkdir()
    for count, split in enumerate(("train", "val", "test"), 1):
        images = [{"id": k, "file_name": f"{split}{k}.png"} for k in range(count)]
        for row in images:
            keras.utils.save_img(tmp_path / row["file_name"], np.zeros((40, 50, 3)), scale=False)
        data = {"images": images, "annotations": [], "categories": categories}
        (tmp_path / "annotations" / f"{split}.json").write_text(json.dumps(data))
    counts = {}
    for split in ("auto", "test", "val", "train"):
        config, out = Evaluate(split=split), str(tmp_path / f"out_{split}")
        measured = evaluate.run(config, str(detected[0]), f"folder:{tmp_path}", out, quiet)
        counts[split] = measured["protocol"]["photos"]
    assert counts == {"auto": 3, "test": 3, "val": 2, "train": 1}


def test_a_model_with_masks_is_compared_by_boxes_where_there_are_no_others(detected):
    model = keras.models.load_model(detected[0] / "model.keras")
    box = np.array([[2, 3, 20, 30]], "float32")
    one, no = np.ones(1, "int32"), np.zeros(1, bool)
    given = [Objects(box, one, no, no, one), Objects(box, one, ~no, no, one)]
    source = PictureSource("boxes", lambda n: (np.zeros((32, 40, 3), "uint8"), given[n]), 2, channels=3, labelled=True)
    truths, found = results(model, source, look_of(dataclasses.asdict(CONFIG)))
    assert "masks" not in truths[0] and "masks" not in found[0]
    assert truths[1]["crowd"].all()  # a difficult object counts neither way
    assert set(numbers(truths, found, kc.class_names(model))) == {"box_ap", "box_ap50", "box_ap75", "ap07"}


@pytest.mark.skipif(BACKEND == "torch", reason="trains on one device")
def test_two_devices_are_two_parts(tmp_path):
    """Losses are averages over the samples of a replica, as the reference has it; here every sample is taken."""
    config = dataclasses.replace(
        CONFIG, drop_path_rate=0.0, epochs=1, base_lr=0.02, masks=False, rpn_samples=10_000, roi_samples=10_000
    )
    found = []
    for how in ({"devices": 2}, {"accumulation": 2}):
        folder = tmp_path / "_".join(how)
        outcome = run(detect.prepare, dataclasses.replace(config, **how), str(folder), DATA, say=quiet)
        with np.load(sorted((folder / "checkpoints").glob("step_*.npz"))[-1]) as state:
            found.append(({key: state[key] for key in state.files if key.startswith("weights/")}, outcome["loss"]))
    (ours, loss), (theirs, other) = found
    assert loss == pytest.approx(other, rel=1e-5)
    largest = max(abs(value).max() for value in ours.values())
    for key, value in ours.items():
        np.testing.assert_allclose(theirs[key], value, rtol=0, atol=1e-5 * largest, err_msg=key)


def test_without_pycocotools_nothing_begins(detected, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    said = []
    say = lambda text, progress=False: said.append(text)  # noqa: E731
    with pytest.raises(ImportError, match="coco_metrics needs pycocotools: pip install"):
        detect.prepare(CONFIG, DATA, say, ONE)
    with pytest.raises(ImportError, match="coco_metrics needs pycocotools: pip install"):
        evaluate.run(Evaluate(), str(detected[0]), DATA, str(tmp_path / "out"), say)
    assert not said


def test_rules_give_each_rung_its_rate():
    model = kc.MaskRCNN(kc.ConvNeXtV2((1, 1, 4, 1), (4, 6, 8, 10), include_top=False), 3, fpn_dim=4, box_dim=4)
    trainable = {id(v) for v in model.trainable_variables}
    paths = [path for path, v in variables_of(model).items() if id(v) in trainable]
    rows = dict(zip(paths, matched(detect_rules((1, 1, 4, 1), 0.9, 6), paths), strict=True))
    expected = {
        "stem/conv/kernel": (0.9**7, True),
        "stage_0/block_0/expand/kernel": (0.9**6, True),
        "stage_1/downsample/norm/gamma": (0.9**5, False),
        "stage_2/downsample/conv/kernel": (0.9**4, True),
        "stage_2/block_2/grn/gamma": (0.9**4, False),
        "stage_2/block_3/expand/kernel": (0.9**3, True),
        "stage_3/block_0/expand/kernel": (0.9, True),
        "norm_2/gamma": (1.0, False),
        "neck/lateral_1/kernel": (1.0, True),
        "rpn_head/deltas/bias": (1.0, False),
        "mask_head/upsample/kernel": (1.0, True),
    }
    for path, (rate, decays) in expected.items():
        assert rows[path] == (pytest.approx(rate), decays), path


def test_the_rate_falls_to_a_tenth():
    rates = [learning_rate(step, peak=2.0, total_steps=8, warmup_steps=2, falls=(4, 6)) for step in range(8)]
    np.testing.assert_allclose(rates, [0, 1, 2, 2, 0.2, 0.2, 0.02, 0.02])
    config = dataclasses.replace(CONFIG, epochs=12, fall_epochs=(8, 11))
    assert config.schedule(80) == {"falls": (80, 110)}


def test_tiles_of_a_voc_set_train_and_what_was_clipped_is_said_of_its_pictures(tmp_path):
    voc, said = tmp_path / "voc", []
    for split in ("train", "test"):
        for n in range(2):
            write_picture(voc / "JPEGImages" / f"{split}{n}.png", n, (40, 50))
            corners = "<xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>60</ymax>"  # 60 is below the picture
            annotation = f"<annotation><object><name>ship</name><bndbox>{corners}</bndbox></object></annotation>"
            (voc / "Annotations").mkdir(exist_ok=True)
            (voc / "Annotations" / f"{split}{n}.xml").write_text(annotation)
        (voc / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{split}0\n{split}1\n")
    tiles = {"tile": 32, "gap": 8, "merge": 0.1, "metric": "ap07", "plus_one": True, "masks": False}
    config = dataclasses.replace(CONFIG, **tiles, image_size=(32, 32), batch_size=2, steps=1, epochs=1)
    say = lambda text, progress=False: said.append(text)  # noqa: E731
    found = run(detect.prepare, config, str(tmp_path / "run"), f"folder:{voc}", say=say)
    assert found["steps"] == 1 and 0 <= found["ap07"] <= 100
    assert len([line for line in said if "clipped" in line]) == 2, said  # of the training and of the test pictures


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"metric": "miou"}, "metric must be one of box_ap, mask_ap .* Received: 'miou'"),
        ({"metric": "mask_ap", "masks": False}, "metric must be one of box_ap"),
        ({"fall_epochs": (2,)}, r"fall_epochs must rise within 1 .. 1. Received: \(2,\)"),
        ({"mean": (1.0,)}, r"mean must have a number for each of the 3 channels, or none. Received: \(1.0,\)"),
        ({"tile": 32}, "gap must be within 0 .. tile - 1. Received: 200"),
        ({"proposals": 0}, "proposals must be at least 1. Received: 0"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
