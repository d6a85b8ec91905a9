"""Parts of the quickstart; the whole of it runs in a short setting beside the tests."""

import shlex
import sys

import keras
import pytest
from absl import flags

import keras_convnextv2 as kc
from training import pretrain, program, quickstart
from training.configs import Finetune, Pretrain
from training.recipes import RECIPES

PRE = {"steps": 2000, "first_loss": 1.0, "loss": 0.4, "seconds": 300.0}


def ended(top_1, seconds=30.0):
    return {"steps": 400, "first_loss": 2.0, "loss": 1.0, "top_1": top_1, "seconds": seconds, "test_images": 2000,
            "classes": list("abcde")}  # fmt: skip


DONE = {
    "pre-training": PRE,
    "pre-trained": [ended(58.0), ended(56.0, 32.0)],
    "from scratch": [ended(44.0), ended(45.0)],
}


def test_the_table_has_means_and_spreads():
    rows = {line[:14].strip(): line[14:].split() for line in quickstart.table(DONE).splitlines()[1:]}
    assert rows["pre-training"] == ["2000", "1.000", "0.400", "300"]
    assert rows["pre-trained"] == ["400", "2.000", "1.000", "57.0", "±", "1.4", "31"]
    assert rows["from scratch"] == ["400", "2.000", "1.000", "44.5", "±", "0.7", "30"]


def test_one_value_has_no_spread():
    assert quickstart.mean_and_spread([3.25]) == "3.2"


def test_remarks_say_what_was_gained_and_what_chance_is():
    text = quickstart.remarks(DONE)
    assert "12.5 points more" in text and "chance 20%" in text and "2 fine-tunings" in text
    worse = {**DONE, "pre-trained": [ended(40.0)], "from scratch": [ended(44.5)]}
    assert "4.5 points less: pre-training did not help here" in quickstart.remarks(worse)


def test_progress_is_thinned_out_and_resuming_is_said():
    lines = []
    say = quickstart.brief(lines.append, every=3)
    say("resuming after step 5 of 9")
    say("1,000 weights")
    for step in range(7):
        say(f"step {step}", progress=True)
    assert lines == ["  resuming after step 5 of 9", "  step 2", "  step 5"]


def test_the_next_commands_can_be_typed_as_they_are_printed():
    lines = quickstart.next_lines("my runs/pretrained")
    for line, kind in zip(lines, (Pretrain, Finetune, Finetune), strict=True):
        words = shlex.split(line, comments=True)
        values = program.define_flags(flags.FlagValues())
        assert words[:3] == [sys.executable, "-m", f"training.{kind.__name__.lower()}"]
        assert values(["program", *words[3:]]) == ["program"]
        program._chosen(values, kind)
    assert "init=my runs/pretrained" in shlex.split(lines[1])


def test_a_call_that_is_killed_while_it_writes_leaves_what_was_there(tmp_path, monkeypatch):
    """Pictures and model have been made before; each writer in turn stops in the middle of its file."""
    fcmae = pretrain.build(RECIPES["pretrain_shapes"])
    fcmae.save_weights(tmp_path / "fcmae.weights.h5")
    classifier = kc.ConvNeXtV2((1,), (3,), classes=10, input_shape=fcmae.backbone.input_shape[1:])
    classifier.save(tmp_path / "model.keras")
    best = {"top_1": 50.0, "model": str(tmp_path / "model.keras")}
    done = {"pre-training": {"weights": str(tmp_path / "fcmae.weights.h5")}, "pre-trained": [best]}
    monkeypatch.setattr(kc, "export_model", lambda *_, **__: None)
    made = quickstart.show_and_export(done, tmp_path, print)
    names = ("reconstructions", "predictions", "Keras model")
    before = {name: made[name].read_bytes() for name in names}

    def killed(*_, path, **__):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    writers = [(quickstart.visualize, "reconstruction_grid"), (quickstart.visualize, "prediction_grid")]
    for owner, name in (*writers, (keras.Model, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed if owner is not keras.Model else lambda _, path: killed(path=path))
            with pytest.raises(KeyboardInterrupt):
                quickstart.show_and_export(done, tmp_path, print)
        assert all(made[name].is_file() for name in names)
        assert made["Keras model"].read_bytes() != b"half" and made["predictions"].read_bytes() == before["predictions"]
        assert made["reconstructions"].read_bytes() == before["reconstructions"]
