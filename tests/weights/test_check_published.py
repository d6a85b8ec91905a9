"""tools/check_published.py against a stand-in for the hub, with expected values that are right or wrong."""

import dataclasses
import json

import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2.preprocessing import imagenet_classes
from keras_convnextv2.weights import presets
from tests.weights.small_files import arrays_in, network, write
from tools import check_published

pytest.importorskip("safetensors")
image_module = pytest.importorskip("PIL.Image")

FINE_TUNED = "convnextv2_small.fcmae_ft_in1k"
WORDNET_IDS = [wordnet_id for wordnet_id, _ in imagenet_classes()[:5]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """An "ImageNet" of five classes with two pictures each."""
    folder, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for wordnet_id in WORDNET_IDS:
        (folder / wordnet_id).mkdir()
        for number in range(2):
            levels = rng.integers(0, 256, (40 + number, 50, 3), "uint8")
            image_module.fromarray(levels).save(folder / wordnet_id / f"{number}.png")
    return folder


@pytest.fixture
def photo(pictures):
    return str(pictures / WORDNET_IDS[0] / "1.png")


@pytest.fixture
def published(hub, small_presets, source, tmp_path):
    arrays = arrays_in("timm conv", source)
    encoder = {name: value for name, value in arrays.items() if not name.startswith("head.")}
    for tag, held in (("fcmae", encoder), ("fcmae_ft_in1k", arrays)):
        hub.files[f"{small_presets[tag].hub}/model.safetensors"] = write(tmp_path / "file", held).read_bytes()
    return hub


@pytest.fixture
def answers(published, pictures, photo, source, monkeypatch):
    """What the tool expects, set to what the network gives: its first logits, and top-1 as published."""
    model = network(input_shape=(32, 32, 3), classifier_activation=None)
    model.set_weights(source.get_weights())
    transform = kc.preset_transform(FINE_TUNED)
    logits = model.predict_on_batch(transform(photo)[None])[0]
    monkeypatch.setattr(check_published, "LOGITS", {FINE_TUNED: tuple(map(float, logits))})
    found = check_published.labelled_pictures(pictures)
    guesses = np.argmax(model.predict_on_batch(np.stack([transform(path) for path, _ in found])), axis=-1)
    top1 = 100 * float(np.mean(guesses == [label for _, label in found]))
    monkeypatch.setitem(presets.PRESETS, FINE_TUNED, dataclasses.replace(presets.PRESETS[FINE_TUNED], top1_timm=top1))
    return {"logits": logits, "top1": top1}


def run(tmp_path, photo, *arguments):
    code = check_published.main(["--image", photo, "--out", str(tmp_path / "report.json"), *arguments])
    return code, {row["name"]: row for row in json.loads((tmp_path / "report.json").read_text())}


def test_right_answers_agree(answers, tmp_path, photo, pictures, capsys):
    code, rows = run(tmp_path, photo, "--imagenet", str(pictures), "--batch", "3")
    assert code == 0
    assert {name: row["result"] for name, row in rows.items()} == {
        "convnextv2_small.fcmae": "loads",
        FINE_TUNED: "agrees",
    }
    row = rows[FINE_TUNED]
    assert row["top1"] == row["expected_top1"] == pytest.approx(answers["top1"]) and row["pictures"] == 10
    np.testing.assert_allclose(row["logits"], answers["logits"], atol=1e-4)
    said = capsys.readouterr().out
    assert "[2/2] convnextv2_small.fcmae_ft_in1k" in said and "10/10" in said
    assert f"{FINE_TUNED:44} agrees" in said and f"{answers['top1']:.2f}" in said


@pytest.mark.parametrize("off, code, result", [(5e-4, 0, "agrees"), (2e-3, 1, "deviates"), (np.nan, 1, "deviates")])
def test_logits_are_compared_to_a_thousandth(answers, tmp_path, photo, monkeypatch, off, code, result):
    wrong = answers["logits"].astype("float64") + [0, 0, 0, off, 0]
    monkeypatch.setattr(check_published, "LOGITS", {FINE_TUNED: tuple(wrong.tolist())})
    found, rows = run(tmp_path, photo, "--presets", "*_ft_*")
    assert (found, rows[FINE_TUNED]["result"], len(rows)) == (code, result, 1)


def test_another_accuracy_deviates(answers, tmp_path, photo, pictures, monkeypatch):
    other = answers["top1"] + (0.2 if answers["top1"] < 50 else -0.2)
    row = dataclasses.replace(presets.PRESETS[FINE_TUNED], top1_timm=other)
    monkeypatch.setitem(presets.PRESETS, FINE_TUNED, row)
    monkeypatch.setattr(check_published, "WHOLE_SET", 10)
    code, rows = run(tmp_path, photo, "--imagenet", str(pictures))
    assert (code, rows[FINE_TUNED]["result"]) == (1, "deviates")
    assert (rows[FINE_TUNED]["tolerance"], rows[FINE_TUNED]["expected_top1"]) == (0.1, other)


def test_a_row_that_fails_does_not_stop_the_others(published, answers, tmp_path, photo, capsys):
    del published.files["timm/convnextv2_small.fcmae/model.safetensors"]
    code, rows = run(tmp_path, photo)
    assert code == 1 and rows[FINE_TUNED]["result"] == "agrees"
    assert rows["convnextv2_small.fcmae"]["result"] == "failed"
    assert "no repository timm/convnextv2_small.fcmae" in rows["convnextv2_small.fcmae"]["error"]
    assert "no repository timm/convnextv2_small.fcmae" in capsys.readouterr().out


def test_the_photo_is_fetched_where_none_is_given(answers, photo, monkeypatch):
    asked = []
    monkeypatch.setattr(check_published.keras.utils, "get_file", lambda origin: asked.append(origin) or photo)
    assert check_published.main(["--presets", FINE_TUNED]) == 0
    assert asked == [check_published.PHOTO]


def test_every_fine_tuned_row_has_an_answer():
    for preset in kc.list_presets():
        logits = check_published.expected_logits(preset)
        assert (logits is None) == (preset.classes == 0), preset.name
    assert len(set(check_published.LOGITS.values())) == 18
    twin = presets.PRESETS["convnextv2_huge.fcmae_ft_in22k_in1k_512"]
    assert check_published.expected_logits(twin) == (-0.3090, 0.0802, -0.0682, -0.1979, -0.2826)


def test_a_pattern_that_fits_nothing_is_said(capsys):
    with pytest.raises(SystemExit) as info:
        check_published.main(["--presets", "*small*"])
    assert info.value.code == 2 and "no preset is called like '*small*'" in capsys.readouterr().err


@pytest.mark.parametrize("name, words", [("cats", "named by WordNet id. Received: 'cats'"), (None, "no pictures")])
def test_folders_that_are_no_imagenet(tmp_path, name, words):
    (tmp_path / (name or WORDNET_IDS[3])).mkdir()
    with pytest.raises(ValueError, match=words):
        check_published.labelled_pictures(tmp_path)


def test_a_sample_may_be_off_by_its_own_noise():
    assert check_published.top1_tolerance(80.0, 50_000) == 0.1
    assert check_published.top1_tolerance(80.0, 400) == pytest.approx(0.1 + 3 * 2.0)  # sqrt(.8 * .2 / 400) = 2%
