"""The program probe, on a network whose features are the colours of a picture."""

import csv
import dataclasses
import json
import shlex

import numpy as np
import pytest

import keras_convnextv2 as kc
from tests.training.colours import by_colour, write_colour
from tests.training.test_evaluate_predict import quiet
from training import finetune, probe
from training.data import StreamSource, open_source, take_per_class
from training.evaluation.features import features_of
from training.fields import with_settings
from training.probe import Probe
from training.recipes import RECIPES
from training.trained import open_trained

CONFIG = Probe(shots=(1, 2, 9), seeds=2, k=3, l2=(1.0, 0.01))


@pytest.fixture
def data(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        for name in ("blue", "green", "red"):
            for number in range(count):
                write_colour(tmp_path / "data" / split / name / f"{number}.png", name, (17 + number, 24))
    return f"folder:{tmp_path / 'data'}"


def test_colours_are_told_apart_by_their_features(saved, data, tmp_path):
    lines = []
    say = lambda text, progress=False: lines.append(text)  # noqa: E731
    results = probe.run(CONFIG, saved, data, str(tmp_path / "out"), say)
    rows = [(row["protocol"], row["labels_per_class"], row["labels"], row["seeds"]) for row in results["results"]]
    assert rows == [
        ("linear probe", "all", 12, 1),
        ("k-nearest-neighbour", "all", 12, 1),
        ("linear probe", 1, 3, 2),
        ("k-nearest-neighbour", 1, 3, 2),
        ("linear probe", 2, 6, 2),
        ("k-nearest-neighbour", 2, 6, 2),
    ]
    assert [row["top_1"] for row in results["results"]] == [100.0] * 6
    assert results["results"][0]["settings"]["each"][0].keys() == {"l2", "validation_top_1", "converged"}
    assert results["results"][3]["settings"]["k"] == 3 and results["results"][3]["top_1_spread"] == 0.0
    assert "  9 labels a class are left out: a class has 4 pictures" in lines
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["labels"] for row in table] == ["12", "12", "3", "3", "6", "6"] and table[0]["top_1"] == "100.0"


def test_features_are_computed_once_for_the_same_weights_and_data(saved, data, tmp_path, monkeypatch):
    passes = []

    def counted(*args, **options):
        passes.append(args[1].name)
        return features_of(*args, **options)

    monkeypatch.setattr(probe, "features_of", counted)
    small = dataclasses.replace(CONFIG, shots=())
    for changes, expected in (({}, 2), ({"k": 1}, 2), ({"mirrored": True}, 3)):
        probe.run(dataclasses.replace(small, **changes), saved, data, str(tmp_path / "out"), quiet)
        assert len(passes) == expected
    model = by_colour()
    model.trainable_variables[0].assign(model.trainable_variables[0] * 2)
    model.save(saved)
    probe.run(small, saved, data, str(tmp_path / "out"), quiet)
    assert len(passes) == 5
    for number, damaged in enumerate((lambda content: content[:100], by_method(8), by_method(99)), 1):
        for file in (tmp_path / "out").glob("features_*.npz"):
            file.write_bytes(damaged(file.read_bytes()))
        probe.run(small, saved, data, str(tmp_path / "out"), quiet)
        assert len(passes) == 5 + 2 * number


def by_method(number):
    """(content of an archive) -> the same, whose members say that they are compressed by another method."""

    def damaged(content):
        content, place = bytearray(content), -1
        while (place := content.find(b"PK\x01\x02", place + 1)) >= 0:
            content[place + 10] = number
            header = int.from_bytes(content[place + 42 : place + 46], "little")
            content[header + 8] = number
        return bytes(content)

    return damaged


def test_an_encoder_without_a_norm_gets_one_and_a_classifier_keeps_its_own(tmp_path):
    encoder = kc.ConvNeXtV2((1, 1), (4, 6), include_top=False, input_shape=(16, 24, 3), seed=0)
    kc.FCMAE(encoder, patch_size=8, decoder_dim=4).backbone.save(tmp_path / "encoder.keras")
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), "uint8")
    averaged = encoder.predict(images, verbose=0).mean(axis=(1, 2))
    expected = (averaged - averaged.mean(1, keepdims=True)) / np.sqrt(averaged.var(1, keepdims=True) + 1e-6)
    found = open_trained(str(tmp_path / "encoder.keras"))
    model, how = found.encoder()
    assert found.outputs == 0 and how == "averaged, then LayerNorm without scale and shift"
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-4)
    classifier = kc.ConvNeXtV2((1, 1), (4, 6), classes=3, input_shape=(16, 24, 3))
    classifier.save(tmp_path / "classifier.keras")
    model, how = open_trained(str(tmp_path / "classifier.keras")).encoder()
    logits = model.predict(images, verbose=0) @ np.asarray(classifier.get_layer("head").get_weights()[0])
    powers = np.exp(logits)
    np.testing.assert_allclose(classifier.predict(images, verbose=0), powers / powers.sum(1, keepdims=True), atol=1e-5)


def test_a_second_view_is_the_mirrored_picture():
    source = open_source("shapes:6", "test")
    left = lambda images, weights: np.asarray(images)[:, :, :3].reshape(len(images), -1)  # noqa: E731
    look = {"batch_size": 4, "image_size": (64, 64), "crop_fraction": None}
    features, labels = features_of(left, source, mirrored=True, **look)
    assert features.shape[:2] == (6, 2) and labels.tolist() == source.labels.tolist()
    pictures = np.stack([source.picture(i) for i in range(6)])
    np.testing.assert_array_equal(features[:, 1], pictures[:, :, :-4:-1].reshape(6, -1))


def test_few_labels_are_those_that_fine_tuning_takes(saved, data, tmp_path, monkeypatch):
    """The features are numbers of pictures, so that the probe's draw can be read off."""
    source = open_source(data, "train")
    taken = take_per_class(source, 2, seed=0)
    drawn = []

    def noted(config, features, labels, test, classes, seed):
        drawn.append(features[:, 0, 0].astype(int).tolist())
        return np.zeros((len(test), classes)), "noted", {}, {}

    monkeypatch.setattr(probe, "_linear", noted)
    numbers = np.arange(12, dtype="float32").reshape(12, 1, 1)
    config = dataclasses.replace(CONFIG, shots=(2,), seeds=1)
    list(probe.measured(config, numbers, source.labels, numbers, source.labels, source.classes, "it", quiet))
    pixels = [source.picture(i) for i in drawn[1]]
    assert len(pixels) == taken.count
    for ours, i in zip(pixels, range(taken.count), strict=True):
        np.testing.assert_array_equal(ours, taken.picture(i))


def test_the_command_for_fine_tuning_is_one_of_the_finetune_program(saved, data, tmp_path):
    results = probe.run(dataclasses.replace(CONFIG, shots=(2,)), saved, data, str(tmp_path / "out"), quiet)
    words = shlex.split(results["next"][0])
    recipe = RECIPES[words[words.index("--recipe") + 1]]
    settings = [value for word, value in zip(words, words[1:], strict=False) if word == "--set"]
    config = with_settings(recipe, settings)
    assert config.network == ((1,), (3,)) and config.labels_per_class == 2 and config.batch_size == 6
    classifier, _ = finetune.build(config, 3, quiet)
    assert classifier.input_shape == (None, 16, 16, 3)


def test_the_whole_network_is_fine_tuned_with_the_same_labels(saved, data, tmp_path):
    config = dataclasses.replace(CONFIG, shots=(2,), finetune="finetune_shapes")
    lines = []
    say = lambda text, progress=False: lines.append(text)  # noqa: E731
    short = dataclasses.replace(RECIPES["finetune_shapes"], steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "finetune_shapes", short)
        row = probe.run(config, saved, data, str(tmp_path / "out"), say)["results"][-1]
        again = probe.run(config, saved, data, str(tmp_path / "out"), quiet)["results"][-1]
    assert (row["protocol"], row["labels"], row["seeds"]) == ("fine-tuning", 6, 2)
    assert again == row
    assert {path.name for path in (tmp_path / "out").glob("finetuned*")} == {"finetuned_2_0", "finetuned_2_1"}


@pytest.mark.parametrize("name", ["finetune_cub", "finetune_22k_base", "finetune_tiny"])
def test_every_recipe_can_be_fine_tuned_with_any_number_of_labels(saved, name):
    config = dataclasses.replace(CONFIG, finetune=name)
    recipe = probe.finetuning(config, open_trained(saved), saved, 1, 5, seed=0)
    assert (recipe.batch_size, recipe.classes, recipe.devices) == (4 if recipe.mixes else 5, 0, 1)


def test_what_was_measured_is_written_before_fine_tuning(saved, data, tmp_path, monkeypatch):
    def failing(*_):
        raise ValueError("the recipe does not fit")

    monkeypatch.setattr(probe, "once", failing)
    config = dataclasses.replace(CONFIG, shots=(1,), finetune="finetune_shapes")
    with pytest.raises(ValueError, match="the recipe does not fit"):
        probe.run(config, saved, data, str(tmp_path / "out"), quiet)
    kept = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert [row["labels_per_class"] for row in kept] == ["all", "all", 1, 1]


def test_a_stream_is_not_fine_tuned_which_is_said_before_anything_is_measured(saved):
    stream = StreamSource("tfds:large", iter, 6, channels=3, classes=("a", "b"), labelled=True)
    config = dataclasses.replace(CONFIG, finetune="finetune_shapes")
    with pytest.raises(ValueError, match="finetune needs pictures in any order, .*Received: 'tfds:large'. Leave fine"):
        probe._recipes(config, open_trained(saved), saved, stream, np.array([0, 0, 1]))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"k": 0}, "k must be at least 1. Received: 0"),
        ({"l2": ()}, r"l2 must be one positive number or more. Received: \(\)"),
        ({"temperature": 0.0}, "temperature must be positive. Received: 0.0"),
        ({"shots": (0,)}, r"shots must be at least 1 each. Received: \(0,\)"),
        ({"finetune": "finetune_photo"}, "must name a Finetune recipe. Received: 'finetune_photo'. Closest: finet"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
