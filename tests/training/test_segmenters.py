"""evaluate and predict of a segmenter whose answer is the brightest channel of each pixel."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import keras_convnextv2 as kc
from keras_convnextv2 import visualize
from keras_convnextv2.layers.network import variables_of
from training import evaluate, predict, segmenters
from training.evaluate import Evaluate
from training.predict import Predict

NAMES = ("red", "green", "blue")


def quiet(text, progress=False):
    """Takes the lines of a program."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A UPerNet of two stages whose first map is the picture in blocks of 2; everything else adds nothing."""
    backbone = kc.ConvNeXtV2((1, 1), (3, 3), include_top=False, stem_patch_size=2)
    model = kc.UPerNet(backbone, NAMES, channels=3, auxiliary_channels=0)
    variables = variables_of(model)
    eye = np.eye(3, dtype="float32")
    for path, variable in variables.items():
        if path.endswith(("project/kernel", "decode_head/bottleneck/conv/kernel")):
            variable.assign(np.zeros(variable.shape))
    kernels = {"stem/conv/kernel": np.broadcast_to(eye / 4, (2, 2, 3, 3)), "decode_head/lateral_0/conv/kernel": eye}
    kernels["decode_head/classifier/kernel"] = 10 * eye
    smooth = np.zeros((3, 3, 3, 3), "float32")
    smooth[1, 1] = eye
    fusion = np.zeros((3, 3, 6, 3), "float32")
    fusion[1, 1, :3] = eye  # of both levels the first
    kernels |= {"decode_head/smooth_0/conv/kernel": smooth, "decode_head/fusion/conv/kernel": fusion}
    for path, value in kernels.items():
        variables[path].assign(np.reshape(value, variables[path].shape))
    path = tmp_path_factory.mktemp("model") / "colours.keras"
    model.save(path)
    return str(path)


def coloured(seed, size=(16, 24)):
    """(picture, label map) in blocks of 8 that are each of one colour."""
    blocks = np.random.default_rng(seed).integers(0, 3, (size[0] // 8, size[1] // 8))
    labels = blocks.repeat(8, 0).repeat(8, 1).astype("uint8")
    return (255 * np.eye(3)[labels]).astype("uint8"), labels


@pytest.fixture
def data(tmp_path):
    for number in range(3):
        picture, labels = coloured(number, (16, 24 + 8 * number))
        if number == 0:
            labels[:, :8] = 255
        for kind, array in (("images", picture), ("labels", labels)):
            path = tmp_path / "val" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return tmp_path


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_segmenter_is_measured_on_label_maps(saved, data, tmp_path):
    said = []
    results = evaluate.run(
        Evaluate(), saved, f"folder:{data}", str(tmp_path / "out"), lambda text, progress=False: said.append(text)
    )
    assert results["miou"] > 80 and results["pixel_accuracy"] > 90  # edges of blocks lie between pixels
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept["miou"] == results["miou"] and kept["protocol"]["classes"] == list(NAMES)
    head, *rows = rows_of(tmp_path / "out" / "per_class.csv")
    assert head == ["class", "pixels", "iou", "accuracy"] and [row[0] for row in rows] == list(NAMES)
    assert sum(int(row[1]) for row in rows) == 16 * (24 + 32 + 40) - 16 * 8
    for name in ("overlays.png", "confusion.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert any("as a whole; 3 classes" in line for line in said)


def test_bad_label_maps_are_all_named_before_anything_is_computed(saved, data, tmp_path, monkeypatch):
    for number in (1, 2):
        Image.fromarray(np.zeros((3, 5), "uint8")).save(data / "val" / "labels" / f"{number}.png")
    monkeypatch.setattr(segmenters, "make_predict", lambda *_, **__: 1 / 0)
    with pytest.raises(ValueError, match=r"Received: 2 that are not: .*1.png must have the size .*; .*2.png must"):
        evaluate.run(Evaluate(), saved, f"folder:{data}", str(tmp_path / "out"), quiet)
    assert not (tmp_path / "out").exists()


def test_a_segmenter_writes_label_maps_and_shares(saved, data, tmp_path):
    (data / "val" / "images" / "bad.png").write_bytes(b"no picture")
    results = predict.run(Predict(), saved, f"folder:{data}/val/images", str(tmp_path / "out"), quiet)
    assert (results["pictures"], results["unreadable"]) == (4, 1)
    for number in range(3):
        labels = np.asarray(Image.open(tmp_path / "out" / "labels" / f"{number}.png"))
        truth = coloured(number, (16, 24 + 8 * number))[1]
        assert labels.shape == truth.shape and (labels == truth).mean() > 0.9
    head, *rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert head == ["file", *NAMES, "label_map", "error"]
    shares = np.array([[float(x) for x in row[1:4]] for row in rows if not row[-1]])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    (bad,) = (row for row in rows if row[-1])
    assert bad[1:5] == [""] * 4 and "bad.png" in bad[-1]
    assert (tmp_path / "out" / "overlays.png").is_file()


@pytest.mark.parametrize("sheet, expected", [(0, []), (1, [24]), (2, [24, 40]), (48, [24, 32, 40])])
def test_the_sheet_has_as_many_pictures_as_asked_for_spread_over_all(
    saved, data, tmp_path, monkeypatch, sheet, expected
):
    widths, draw = [], visualize.segmentation

    def drawn(pictures, *arguments, **options):
        widths.extend(picture.shape[1] for picture in pictures)
        return draw(pictures, *arguments, **options)

    monkeypatch.setattr(visualize, "segmentation", drawn)
    predict.run(Predict(sheet=sheet), saved, f"folder:{data}/val/images", str(tmp_path / "out"), quiet)
    assert widths == expected


@pytest.mark.parametrize("split", ["all", "val"])
def test_a_split_that_label_maps_lack_is_refused(saved, data, tmp_path, split):
    with pytest.raises(ValueError, match=f"split of label maps must be one of auto, test, train. Received: '{split}'"):
        evaluate.run(Evaluate(split=split), saved, f"folder:{data}", str(tmp_path / "out"), quiet)


@pytest.mark.parametrize("kind, message", [("images", "read the image .*2.png"), ("labels", "label map .*2.png")])
def test_files_that_cannot_be_read_are_named_before_anything_is_measured(
    saved, data, tmp_path, monkeypatch, kind, message
):
    (data / "val" / kind / "2.png").write_bytes(b"none")
    monkeypatch.setattr("training.segmenters.agreement", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises((ValueError, OSError), match=message):
        evaluate.run(Evaluate(), saved, f"folder:{data}", str(tmp_path / "out"), quiet)


def test_classes_in_another_order_are_refused(saved, data, tmp_path):
    names = list(NAMES)
    names[0], names[1] = names[1], names[0]
    (data / "classes.txt").write_text("\n".join(names))
    message = f"must be the model's, in its order: class 0 is '{NAMES[0]}'. Received: '{NAMES[1]}'"
    with pytest.raises(ValueError, match=message):
        evaluate.run(Evaluate(), saved, f"folder:{data}", str(tmp_path / "out"), quiet)


def test_a_segmenter_is_no_classifier(saved):
    from training.trained import open_trained

    trained = open_trained(saved)
    assert trained.segments and not trained.outputs and trained.names == NAMES
    with pytest.raises(ValueError, match="model must be a classifier. Received: .*a segmenter"):
        trained.classifier()


def test_a_model_without_names_and_one_of_other_classes(data, tmp_path):
    for classes in (3, 4):
        model = kc.UPerNet(
            kc.ConvNeXtV2((1, 1), (3, 3), include_top=False, stem_patch_size=2),
            classes,
            channels=3,
            auxiliary_channels=0,
        )
        model.save(tmp_path / f"{classes}.keras")
    results = evaluate.run(Evaluate(), str(tmp_path / "3.keras"), f"folder:{data}", str(tmp_path / "out"), quiet)
    assert results["protocol"]["classes"] == ["0", "1", "2"]
    (data / "classes.txt").write_text("red\ngreen\nblue\n")
    with pytest.raises(ValueError, match="classes must be at most 3|label maps must have the 4 classes of the model"):
        evaluate.run(Evaluate(), str(tmp_path / "4.keras"), f"folder:{data}", str(tmp_path / "other"), quiet)


def test_places_never_collide():
    from training.segmenters import _places

    assert _places(["x/a.jpg", "y/a.jpg", "x/a_2.jpg", "b.png"]) == [
        *("labels/a.png", "labels/a_2.png", "labels/a_2_2.png", "labels/b.png"),
    ]


def test_the_backbone_of_a_segmenter_can_be_probed(saved):
    from training.trained import open_trained

    features, said = open_trained(saved).encoder()
    assert features.output_shape[-1] == 3 and "averaged" in said
