"""The programs evaluate and predict, on a network that answers by the colour of a picture."""

import csv
import json
import re
import struct

import keras
import numpy as np
import pytest
from absl import flags

import keras_convnextv2 as kc
from tests.training.colours import NAMES, by_colour, write_colour
from training import evaluate, predict, probe, protocol, trained
from training.evaluate import Evaluate
from training.predict import Predict
from training.trained import open_trained


def quiet(text, progress=False):
    """Takes the lines of a program."""


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def is_png(path):
    head = path.read_bytes()[:24]
    return head.startswith(b"\x89PNG") and min(struct.unpack(">II", head[16:])) > 100


@pytest.fixture
def pictures(tmp_path):
    """Classes in another order than the model's; one red picture lies among the blue ones."""
    for name, colours in {"blue": ["blue", "blue", "red"], "green": ["green"], "red": ["red"]}.items():
        for number, colour in enumerate(colours):
            write_colour(tmp_path / "data" / "test" / name / f"{number}.png", colour)
    return tmp_path / "data"


def test_a_folder_is_evaluated_by_the_names_of_its_classes(saved, pictures, tmp_path):
    results = evaluate.run(Evaluate(batch_size=2), saved, f"folder:{pictures}", str(tmp_path / "out"), quiet)
    assert results["top_1"] == 80.0 and results["top_5"] == 100.0
    assert results["mean_class_top_1"] == pytest.approx(100 * (2 / 3 + 1 + 1) / 3)
    assert rows_of(tmp_path / "out" / "confusion.csv") == [
        ["class", "blue", "green", "red"],
        ["blue", "2", "0", "1"],
        ["green", "0", "1", "0"],
        ["red", "0", "0", "1"],
    ]
    assert rows_of(tmp_path / "out" / "per_class.csv")[:2] == [
        ["class", "images", "top_1", "top_5"],
        ["blue", "3", "66.67", "100.00"],
    ]
    assert is_png(tmp_path / "out" / "confusion.png")
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept == results
    expected = {"model": saved, "image_size": [16, 16], "crop_fraction": 0.875, "images": 5, "outputs": 3}
    assert expected.items() <= kept["protocol"].items() and kept["protocol"]["versions"]["keras"] == keras.__version__


def test_a_subset_of_the_classes_can_be_evaluated_and_the_choice_restricted(saved, pictures, tmp_path):
    for name in ("green", "red"):
        for file in (pictures / "test" / name).iterdir():
            file.unlink()
        (pictures / "test" / name).rmdir()
    results = evaluate.run(Evaluate(), saved, f"folder:{pictures}", str(tmp_path / "out"), quiet)
    assert results["top_1"] == pytest.approx(100 * 2 / 3)
    assert rows_of(tmp_path / "out" / "confusion.csv") == [["class", "blue", "red"], ["blue", "2", "1"]]
    results = evaluate.run(Evaluate(restrict=True), saved, f"folder:{pictures}", str(tmp_path / "out"), quiet)
    assert results["top_1"] == 100.0


def test_another_size_and_crop_are_taken_when_asked_for(saved, pictures, tmp_path):
    seen = []
    config = Evaluate(image_size=(12, 8), crop_fraction=None)
    results = evaluate.run(
        config, saved, f"folder:{pictures}", str(tmp_path / "out"), lambda text, **_: seen.append(text)
    )
    assert results["protocol"]["image_size"] == [12, 8] and results["protocol"]["crop_fraction"] is None
    assert results["top_1"] == 80.0 and any("12 x 8 pixels, squashed" in line for line in seen)


def test_a_folder_without_a_split_is_evaluated_where_training_holds_out(saved, tmp_path):
    for number in range(20):
        for name in NAMES:
            write_colour(tmp_path / "data" / name / f"{number}.png", name)
    data, lines = f"folder:{tmp_path / 'data'}", []
    say = lambda text, progress=False: lines.append(text)  # noqa: E731
    held_out = evaluate.run(Evaluate(), saved, data, str(tmp_path / "out"), say)["protocol"]["images"]
    assert 3 <= held_out < 20 and any("--set split=all takes every one" in line for line in lines)
    assert any(f"so {held_out} pictures are held out by their names" in line for line in lines)
    assert evaluate.run(Evaluate(split="all"), saved, data, str(tmp_path / "out"), quiet)["protocol"]["images"] == 60


def test_labelled_pictures_have_no_val(saved, tmp_path):
    with pytest.raises(ValueError, match="split of labelled pictures must be one of auto, test, train, all. .*'val'"):
        evaluate.run(Evaluate(split="val"), saved, "shapes:10", str(tmp_path / "out"), quiet)


def test_the_workdir_of_a_run_brings_its_picture_and_its_split(tmp_path):
    by_colour().save(tmp_path / "run.keras")
    (tmp_path / "run").mkdir()
    (tmp_path / "run.keras").rename(tmp_path / "run" / "model.keras")
    recipe = {"image_size": [16, 16], "crop_fraction": None, "validation_split": 0.5}
    record = {"program": "finetune", "data": "folder:x", "recipe": recipe}
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(record))
    found = open_trained(str(tmp_path / "run"))
    assert (found.image_size, found.crop_fraction, found.names) == ((16, 16), None, NAMES)
    for number in range(20):
        write_colour(tmp_path / "data" / "red" / f"{number}.png", "red")
    config, data = Evaluate(), f"folder:{tmp_path / 'data'}"
    assert 5 < evaluate.open_labelled(config, found, data, quiet).count < 15


def test_a_preset_brings_its_published_picture_and_imagenets_names(monkeypatch, oracle):
    monkeypatch.setattr(trained, "weights_file", lambda name: oracle / "atto_timm.safetensors")
    found = open_trained("convnextv2_atto.fcmae_ft_in1k")
    assert (found.image_size, found.crop_fraction, found.published) == ((224, 224), 0.875, True)
    assert found.outputs == 1000 and found.names[1] == "goldfish" and found.ids[1] == "n01443537"
    assert len(set(found.names)) == 1000
    larger = open_trained("convnextv2_tiny.fcmae_ft_in22k_in1k_384", image_size=(64, 64))
    assert larger.model.input_shape == (None, 64, 64, 3) and larger.crop_fraction is None


def test_a_file_of_weights_tells_its_network(oracle):
    found = open_trained(str(oracle / "mini_official.pt"), image_size=(64, 96))
    expected = np.load(oracle / "mini_expected.npz")
    model = found.classifier()
    assert (found.outputs, found.names, found.published) == (7, None, False)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), "uint8")
    theirs = kc.ConvNeXtV2((1, 1, 2, 1), (8, 16, 24, 32), classes=7, input_shape=(64, 96, 3))
    kc.load_weights(theirs, oracle / "mini_official.pt")
    np.testing.assert_allclose(model.predict(images, verbose=0), theirs.predict(images, verbose=0), atol=1e-6)
    assert expected["logits"].shape == (2, 7)


def test_a_model_of_normalised_pictures_gets_its_normalisation(tmp_path):
    with_it, without = by_colour(), by_colour(include_preprocessing=False)
    without.set_weights(with_it.get_weights())
    without.save(tmp_path / "plain.keras")
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), "uint8")
    ours = open_trained(str(tmp_path / "plain.keras")).classifier()
    np.testing.assert_allclose(ours.predict(images, verbose=0), with_it.predict(images, verbose=0), atol=1e-6)


def test_predictions_are_a_table_with_the_reasons_of_what_cannot_be_read(saved, tmp_path):
    write_colour(tmp_path / "data" / "b.png", "blue")
    write_colour(tmp_path / "data" / "deep" / "er" / "c.png", "red", (8, 30))
    (tmp_path / "data" / "a.png").write_text("no picture")
    config, lines = Predict(top=2, batch_size=2), []
    say = lambda text, progress=False: lines.append(text)  # noqa: E731
    results = predict.run(config, saved, f"folder:{tmp_path / 'data'}", str(tmp_path / "out"), say)
    assert (results["pictures"], results["unreadable"]) == (3, 1)
    header, bad, blue, red = rows_of(tmp_path / "out" / "predictions.csv")
    assert header == ["file", "class_1", "probability_1", "class_2", "probability_2", "error"]
    assert bad[:5] == [str(tmp_path / "data" / "a.png"), "", "", "", ""] and "not a picture" in bad[5]
    assert (blue[1], red[1], red[5]) == ("blue", "red", "") and float(red[2]) > 0.9 > float(red[4])
    assert is_png(tmp_path / "out" / "contact_sheet.png")
    assert any("a.png: not a picture" in line for line in lines)


def test_probabilities_of_a_model_that_answers_logits_sum_to_one(tmp_path):
    by_colour(classifier_activation=None).save(tmp_path / "logits.keras")
    write_colour(tmp_path / "b.png", "blue")
    out = tmp_path / "out"
    predict.run(Predict(sheet=0), str(tmp_path / "logits.keras"), str(tmp_path / "b.png"), str(out), quiet)
    row = rows_of(out / "predictions.csv")[1]
    assert row[1] == "blue" and sum(map(float, row[2:7:2])) == pytest.approx(1, abs=3e-6)
    assert not (out / "contact_sheet.png").exists()


def test_pictures_are_named_by_files_lists_and_folders(tmp_path):
    for name in ("a.png", "b.JPG", "sub/c.png"):
        write_colour(tmp_path / "p" / name, "red")
    (tmp_path / "list.txt").write_text(f"# mine\n{tmp_path / 'p' / 'a.png'}\n\nnowhere.png\n")
    names = lambda data: [file.rsplit("/", 1)[-1] for file in predict.files_of(data)]  # noqa: E731
    assert names(str(tmp_path / "p")) == names(f"folder:{tmp_path / 'p'}") == ["a.png", "b.JPG", "c.png"]
    assert names(str(tmp_path / "list.txt")) == ["a.png", "nowhere.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no picture .* or below it"):
        predict.files_of(str(tmp_path / "empty"))
    with pytest.raises(
        FileNotFoundError, match="--data must be folder:PATH, .*Received: 'nowhere', which is not there"
    ):
        predict.files_of("nowhere")


def test_pictures_none_of_which_can_be_read(saved, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(OSError, match="none of the 1 pictures can be read; the first one: .*a.png"):
        predict.run(Predict(), saved, str(tmp_path / "a.png"), str(tmp_path / "out"), quiet)
    assert not (tmp_path / "out").exists()


def test_the_results_of_another_program_are_not_overwritten(saved, pictures, tmp_path):
    evaluate.run(Evaluate(), saved, f"folder:{pictures}", str(tmp_path / "out"), quiet)
    with pytest.raises(ValueError, match="must be a new folder, or one of an earlier predict. .* holds a evaluate'"):
        predict.run(Predict(), saved, str(pictures), str(tmp_path / "out"), quiet)


def encoder(path):
    kc.ConvNeXtV2((1,), (3,), include_top=False, input_shape=(16, 16, 3)).save(path)


@pytest.mark.parametrize(
    "given, message",
    [
        ([], "--model must be the workdir of an ended run, .*Received: None. Try --model runs/first"),
        (["--model", "{}/nowhere"], "no weights file at .*nowhere"),
        (["--model", "{}"], "model.keras is missing: has that run ended"),
        (["--model", "{}/bad.keras"], "--model must be a whole .keras file. Received: .*bad.keras"),
        (
            ["--model", "{}/encoder.keras"],
            "must be a classifier. .*probe --model .* --data folder:LABELLED_PICTURES --workdir",
        ),
        (["--model", "imagenet"], "'imagenet' exists for several sizes: name one in full"),
        (["--set", "splt=test"], "--set must name a field of the Evaluate config. .*Closest: split"),
        (["--set", "crop_fraction=2"], r"crop_fraction must be in \[0, 1\] or none. Received: 2.0"),
        (["--set", "split=most"], "split must be one of auto, test, val, train, all. Received: 'most'"),
        (["runs/first"], "All arguments are flags. Received: 'runs/first'"),
    ],
)
def test_what_is_wrong_with_a_command_is_one_line(given, message, tmp_path, capsys):
    (tmp_path / "bad.keras").write_text("no model")
    encoder(tmp_path / "encoder.keras")
    values = protocol.define_flags(flags.FlagValues())
    words = [word.format(tmp_path) for word in given]
    rest = values(["program", "--data", "shapes:10", "--workdir", str(tmp_path / "out"), *words])
    assert protocol.main(rest, Evaluate, evaluate.run, values=values) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error

    assert re.search(message, error), error


def test_a_set_is_downloaded_where_it_is_asked_for(saved, tmp_path, monkeypatch):
    asked = []

    def opened(spec, split, **options):
        asked.append((spec, split, options["download"]))
        raise ValueError("enough")

    monkeypatch.setattr(evaluate, "open_source", opened)
    monkeypatch.setattr(probe.finetune, "open_source", opened)
    for run, config in ((evaluate.run, Evaluate(download=True)), (probe.run, probe.Probe(download=True))):
        with pytest.raises(ValueError, match="enough"):
            run(config, saved, "tfds:some", str(tmp_path / "out"), quiet)
    assert asked == [("tfds:some", "test", True), ("tfds:some", "train", True)]


def test_data_must_be_named(capsys):
    values = protocol.define_flags(flags.FlagValues())
    assert protocol.main(values(["program", "--model", "x"]), Evaluate, evaluate.run, values=values) == 1
    assert (
        "error: --data must be shapes, shapes:COUNT, folder:PATH, records:PATH or tfds:NAME. Received: none"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("more, said", [({}, "begins again"), ({"go_on": "The same command goes on"}, "goes on")])
def test_after_ctrl_c_it_is_said_what_the_same_command_does(more, said, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    values = protocol.define_flags(flags.FlagValues())
    argv = values(["program", "--model", "x", "--data", "shapes"])
    assert protocol.main(argv, Evaluate, stopped, values=values, **more) == 130
    assert capsys.readouterr().err == f"\nstopped. The same command {said}.\n"


def test_there_are_five_flags_and_every_field_is_explained(capsys):
    values = protocol.define_flags(flags.FlagValues())
    assert sorted(values) == sorted(protocol.FLAGS)
    assert protocol.main(values(["program", "--explain"]), Predict, predict.run, values=values) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  top = 5  # the most likely classes of each picture in the table" in lines and len(lines) == 7
