"""The command that converts files: any layout in, any out, checked on the way."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2.convert import __main__ as convert
from keras_convnextv2.convert import verifying
from keras_convnextv2.weights import matching
from keras_convnextv2.weights.readers import open_arrays
from tests.weights.small_files import assert_same, randomised, values

pytest.importorskip("safetensors")
MINI = ((1, 1, 2, 1), (8, 16, 24, 32))


def mini_network(**options):
    return kc.ConvNeXtV2(*MINI, **{"input_shape": (64, 96, 3), "classes": 7, **options})


@pytest.fixture(scope="module")
def classifier():
    return randomised(mini_network())


@pytest.fixture(scope="module")
def hugging_face(classifier, tmp_path_factory):
    """A file of the classifier's weights."""
    return kc.save_weights_as(classifier, tmp_path_factory.mktemp("hugging_face"), "huggingface").files[0]


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def reloaded(model, path):
    """The model with a file's weights in place of its own, which then must all come from there."""
    other = keras.models.clone_model(model)
    assert not kc.load_weights(other, path).untouched
    return other


@pytest.mark.parametrize(
    "out, form, file",
    [
        ("served", "timm", "served/model.safetensors"),
        ("model.safetensors", "timm", "model.safetensors"),
        ("served", "huggingface", "served/model.safetensors"),
        ("model.pt", None, "model.pt"),
        ("model.keras", None, "model.keras"),
        ("model.weights.h5", None, "model.weights.h5"),
    ],
)
def test_a_classifier_into_every_format(classifier, hugging_face, tmp_path, capsys, out, form, file):
    if out.endswith(".pt"):
        pytest.importorskip("torch")
    assert run(hugging_face, tmp_path / out, *(["--format", form] if form else [])) == 0
    assert_same(reloaded(classifier, tmp_path / file), values(classifier))
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if "stage_{s}/block_{b}/depthwise/kernel" in line).split()
    assert row[0] == "convnextv2.encoder.stages.{s}.layers.{b}.dwconv.weight" and row[3:] == ["5", "8x1x7x7"]
    assert said.count("70/70") >= (1 if form is None and "pt" not in out else 2)  # progress of both ways
    assert "70 variables set from" in said and f"70 arrays written to '{tmp_path / file}'" in said


@pytest.mark.parametrize("options", [{}, {"pooling": "avg"}])
def test_a_backbone_stays_one(tmp_path, options):
    backbone = randomised(kc.ConvNeXtV2((1, 2), (4, 6), False, input_shape=(16, 24, 1), stem_patch_size=2, **options))
    backbone.save_weights(tmp_path / "in.weights.h5")
    assert run(tmp_path / "in.weights.h5", tmp_path / "out.keras", "--verify") == 0
    found = keras.saving.load_model(tmp_path / "out.keras")
    assert found.input_shape == (None, None, None, 1) and found.output_shape == backbone.output_shape[:1] + (
        (6,) if options else (None, None, 6)
    )
    assert_same(found, values(backbone))


def test_an_fcmae_keeps_its_decoder(tmp_path, capsys):
    fcmae = randomised(kc.FCMAE(mini_network(include_top=False), decoder_dim=8, decoder_depth=2))
    fcmae.save(tmp_path / "in.keras")
    pytest.importorskip("torch")
    assert run(tmp_path / "in.keras", tmp_path / "script.pt", "--verify") == 0
    assert run(tmp_path / "script.pt", tmp_path / "out.weights.h5", "--verify") == 0
    other = kc.FCMAE(mini_network(include_top=False), decoder_dim=8, decoder_depth=2)
    assert not kc.load_weights(other, tmp_path / "out.weights.h5").untouched
    assert_same(other, values(fcmae))
    assert "no other library reads 'official script' files" in capsys.readouterr().out
    assert run(tmp_path / "script.pt", tmp_path / "encoder", "--format", "huggingface") == 0
    said = capsys.readouterr().out
    assert "left out" in next(line for line in said.splitlines() if line.startswith("mask_token"))


def test_a_keras_file_brings_its_preprocessing(tmp_path):
    mini_network(mean=(0.4, 0.5, 0.6)).save(tmp_path / "in.keras")
    assert run(tmp_path / "in.keras", tmp_path / "served", "--format", "timm") == 0
    data = json.loads((tmp_path / "served" / "config.json").read_text())["pretrained_cfg"]
    assert (data["mean"], data["input_size"]) == ([0.4, 0.5, 0.6], [3, 64, 96])


def test_a_preset_brings_its_picture_size(hugging_face, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "weights_file", lambda source: pathlib.Path(hugging_face))
    assert run("hf:timm/convnextv2_nano.fcmae_ft_in22k_in1k_384", tmp_path, "--format", "timm") == 0
    data = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert (data["input_size"], data["crop_mode"]) == ([3, 384, 384], "squash")


@pytest.mark.parametrize(
    "source",
    [
        "files/convnextv2_nano_22k_384_ema.pt",
        "hf:facebook/convnextv2-nano-22k-384/pytorch_model.bin",
        "timm/convnextv2_nano.fcmae_ft_in22k_in1k_384",
    ],
)
def test_files_of_a_preset_bring_its_picture_size(source, hugging_face, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert, "weights_file", lambda source: pathlib.Path(hugging_face))
    assert run(source, tmp_path, "--format", "huggingface") == 0
    assert json.loads((tmp_path / "config.json").read_text())["image_size"] == 384
    assert "picture size" not in capsys.readouterr().out


def test_an_unknown_picture_size_is_said(hugging_face, tmp_path, capsys):
    for form, times in (("timm", 1), ("official", 0)):
        if form == "official":
            pytest.importorskip("torch")
        assert run(hugging_face, tmp_path, "--format", form) == 0
        assert capsys.readouterr().out.count("picture size unknown: 224 written into the config\n") == times


@pytest.mark.parametrize("ema", [False, True])
def test_the_moving_average_on_request(oracle, mini, tmp_path, ema):
    pytest.importorskip("torch")
    options = ["--ema"] if ema else []
    assert run(oracle / "mini_official.pt", tmp_path, "--format", "huggingface", *options) == 0
    kc.load_weights(mini, tmp_path / "model.safetensors")
    expected = np.load(oracle / "mini_expected.npz")
    logits = mini.predict_on_batch(expected["image"])
    np.testing.assert_allclose(logits, expected["logits_model_ema" if ema else "logits"], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def mini():
    return mini_network(include_preprocessing=False, classifier_activation=None)


@pytest.mark.parametrize("options, times", [([], 1), (["--verify"], 2)])
def test_a_file_is_opened_once(hugging_face, tmp_path, monkeypatch, options, times):
    opened, function = [], matching.open_arrays

    def counting(path, ema=False):
        opened.append(path)
        return function(path, ema)

    monkeypatch.setattr(matching, "open_arrays", counting)
    monkeypatch.setattr(verifying, "answers", missing)
    assert run(hugging_face, tmp_path / "out", "--format", "timm", *options) == 0
    assert len(opened) == times and len(set(opened)) == times


# --verify


def test_a_changed_bit_is_found(hugging_face, tmp_path, capsys, monkeypatch):
    write = convert._write

    def damaged(model, file, form):
        report = write(model, file, form)
        with open_arrays(file) as arrays:
            found = {name: np.array(arrays.read(name)) for name in arrays.shapes}
        found["head.fc.bias"][3] += 1e-6
        from safetensors.numpy import save_file

        save_file(found, file)
        return report

    monkeypatch.setattr(convert, "_write", damaged)
    monkeypatch.setattr(verifying, "answers", missing)
    assert run(hugging_face, tmp_path, "--format", "timm", "--verify") == 1
    said = capsys.readouterr().out
    assert "IN: 70 of 70 arrays" in said and "OUT: 69 of 70 arrays" in said and "head.fc.bias" in said


def missing(*_):
    raise ImportError("timm cannot be imported (No module named 'timm')")


def broken(*_):
    raise RuntimeError("timm does not load 'model.safetensors': KeyError")


@pytest.mark.parametrize(
    "answers, code, words",
    [
        (missing, 0, "not compared: timm cannot be imported"),
        (broken, 1, "timm does not load"),
        (None, 1, "answers something else"),
    ],
)
def test_libraries_that_are_missing_or_disagree(hugging_face, tmp_path, capsys, monkeypatch, answers, code, words):
    def other(_, __, images, *___):
        height, width = images.shape[1] // 32, images.shape[2] // 32
        return {"features": np.zeros((1, height, width, 32)), "logits": np.zeros((1, 7))}

    monkeypatch.setattr(verifying, "answers", answers or other)
    assert run(hugging_face, tmp_path, "--format", "timm", "--verify") == code
    assert words in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("form, library", [("timm", "timm"), ("huggingface", "transformers")])
def test_libraries_agree(tmp_path, capsys, form, library):
    pytest.importorskip("torch")
    mini_network().save(tmp_path / "in.keras")
    code = run(tmp_path / "in.keras", tmp_path / "served", "--format", form, "--verify")
    said = capsys.readouterr().out
    if "cannot be imported" in said:
        pytest.skip(next(line for line in said.splitlines() if "cannot be imported" in line))
    assert code == 0 and f"OUT: {library} answers alike: features within" in said and "and logits within" in said


# Errors: one line, no traceback


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("IN", "out"), ("must be given", "out")),
        (
            ("IN", "out.safetensors"),
            ("--format (timm, huggingface, official, mmdetection, keras, weights.h5) must be given", "out.s"),
        ),
        (("IN", "out.pt", "--format", "timm"), ("must fit OUT", "official", "timm")),
        (("IN", "out", "--format", "keras"), ("ends in .keras", "out")),
        (("IN", "out.safetensors", "--format", "huggingface"), ("called model.safetensors", "out.safetensors")),
        (("IN", "IN", "--format", "huggingface"), ("must be two files",)),
        (("IN", "out.keras", "--ema"), ("moving average of a torch file", "model.safetensors")),
        (("nothing.pt", "out.keras"), ("no weights file at", "nothing.pt")),
        (("damaged.safetensors", "out.keras"), ("damaged or cut off", "damaged.safetensors")),
        (("other.keras", "out.pt"), ("damaged or cut off", "other.keras")),
        (("half.safetensors", "out.keras"), ("must hold a whole network", "half.safetensors")),
    ],
)
def test_bad_input_is_one_line(hugging_face, tmp_path, capsys, arguments, words):
    from safetensors.numpy import save_file

    (tmp_path / "damaged.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "other.keras").write_bytes(b"x" * 100)
    save_file({"downsample_layers.0.0.bias": np.zeros(4, "float32")}, tmp_path / "half.safetensors")
    before = sorted(tmp_path.rglob("*"))
    places = [hugging_face if a == "IN" else tmp_path / a if "out" in a or "." in a else a for a in arguments]
    assert run(*places) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out
    for word in words:
        assert word in said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_as_a_program(hugging_face, tmp_path):
    root = pathlib.Path(__file__).parents[2]
    program = [sys.executable, "-m", "keras_convnextv2.convert", hugging_face, str(tmp_path / "out.weights.h5")]
    done = subprocess.run(program, cwd=root, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "70 arrays written to" in done.stdout and (tmp_path / "out.weights.h5").is_file()
    program[-1] = str(tmp_path / "out")
    done = subprocess.run(program, cwd=root, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 2 and "must be given" in done.stderr and "Traceback" not in done.stderr
