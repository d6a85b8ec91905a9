"""Models into other libraries' files: bit for bit what those libraries wrote, and what they read."""

import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2.convert.libraries import NOT_HERE
from keras_convnextv2.weights import writing
from keras_convnextv2.weights.readers import open_arrays
from keras_convnextv2.weights.rows import TABLES
from tests.weights.small_files import assert_same, network, randomised, run_without_torch, values

pytest.importorskip("safetensors")
MINI = ((1, 1, 2, 1), (8, 16, 24, 32))
LOGITS = 2e-5  # as in test_parity
# The oracle's files of one network; all but mmpretrain's can be written.
FILES = {
    "official": "mini_official.pt",
    "timm": "mini_timm_linear.safetensors",
    "timm conv": "mini_timm_conv.safetensors",
    "huggingface": "mini_hf.safetensors",
    "mmpretrain": "mini_mmpretrain.pth",
}


def mini_network(**options):
    return kc.ConvNeXtV2(*MINI, **{"input_shape": (64, 96, 3), "classes": 7, **options})


def contents(path):
    with open_arrays(pathlib.Path(path)) as arrays:
        return {name: np.array(arrays.read(name)) for name in arrays.shapes}


def assert_same_file(path, expected):
    found, expected = contents(path), contents(expected)
    assert sorted(found) == sorted(expected)
    for name, array in found.items():
        assert array.shape == expected[name].shape, name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def config(folder, name="config.json"):
    return json.loads((pathlib.Path(folder) / name).read_text())


@pytest.fixture(scope="module")
def small():
    """A random network that every library can build."""
    return randomised(mini_network())


# The files of the oracle


@pytest.mark.parametrize("source", FILES.values())
@pytest.mark.parametrize("name", ["timm", "huggingface", "official"])
def test_every_file_becomes_every_other_bit_for_bit(oracle, mini, tmp_path, source, name):
    if "official" in (name, source.partition(".")[0][5:]) or source.endswith(".pth"):
        pytest.importorskip("torch")
    kc.load_weights(mini, oracle / source)
    report = kc.save_weights_as(mini, tmp_path, name)
    assert report.format == name and not report.left_out and not report.added
    assert_same_file(report.files[0], oracle / FILES[name])


def test_the_layout_of_convolutions(oracle, mini, tmp_path, monkeypatch):
    kc.load_weights(mini, oracle / FILES["timm"])
    monkeypatch.setattr(writing, "layout", lambda *_: TABLES["timm conv"])  # mini has no published size
    report = kc.save_weights_as(mini, tmp_path, "timm")
    assert_same_file(report.files[0], oracle / FILES["timm conv"])


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_our_own_files_keep_every_bit(oracle, mini, tmp_path, ending):
    kc.load_weights(mini, oracle / FILES["huggingface"])
    expected = values(mini)
    path = tmp_path / f"model{ending}"
    mini.save_weights(path) if "h5" in ending else mini.save(path)
    for v in mini.weights:
        v.assign(np.zeros(v.shape, "float32"))
    kc.load_weights(mini, path)
    assert_same(mini, expected)
    assert_same_file(kc.save_weights_as(mini, tmp_path / "out", "huggingface").files[0], oracle / FILES["huggingface"])


def test_an_encoder_becomes_a_released_file(oracle, tmp_path):
    pytest.importorskip("torch")
    model = mini_network(include_top=False)
    kc.load_weights(model, oracle / "mini_fcmae_released.pt")
    report = kc.save_weights_as(model, tmp_path / "encoder.pt", "official")
    assert report.files == (str(tmp_path / "encoder.pt"),) and report.format == "official FCMAE"
    assert_same_file(report.files[0], oracle / "mini_fcmae_released.pt")


@pytest.fixture(scope="module")
def mini_fcmae(oracle):
    pytest.importorskip("torch")
    model = kc.FCMAE(mini_network(include_top=False), decoder_dim=16)
    kc.load_weights(model, oracle / "mini_fcmae_script.pt")
    return model


def test_an_fcmae_becomes_a_file_of_the_script(oracle, mini_fcmae, tmp_path):
    report = kc.save_weights_as(mini_fcmae, tmp_path, "official")
    assert report.format == "official script" and not report.left_out
    assert_same_file(tmp_path / "model.pt", oracle / "mini_fcmae_script.pt")


@pytest.mark.parametrize("name", ["timm", "huggingface"])
def test_an_fcmae_elsewhere_is_its_encoder(oracle, mini_fcmae, tmp_path, name):
    report = kc.save_weights_as(mini_fcmae, tmp_path, name)
    assert sorted(report.left_out) == sorted(path for path in values(mini_fcmae) if path.startswith("decoder/"))
    assert "files have no FCMAE decoder" in repr(report) and "added" in repr(report)
    held = contents(report.files[0])
    for theirs in report.added:
        np.testing.assert_array_equal(held[theirs], np.full(32, theirs.endswith("weight"), "float32"))
    other = mini_network(include_top=False)
    assert len(report.added) == 2 and kc.load_weights(other, report.files[0]).left_out.keys() == report.added.keys()
    assert_same(other, values(mini_fcmae))


def test_atto_becomes_the_files_of_all_three(oracle, tmp_path):
    pytest.importorskip("torch")
    model = kc.ConvNeXtV2Atto(weights=oracle / "atto_hf.safetensors")  # float16
    for name, file in (("timm", "atto_timm.safetensors"), ("huggingface", "atto_hf.safetensors")):
        kc.save_weights_as(model, tmp_path / name, name)
        assert_same_file(tmp_path / name / "model.safetensors", oracle / file)
    kc.save_weights_as(model, tmp_path, "official")
    assert_same_file(tmp_path / "model.pt", oracle / "atto_official.pt")
    timm, labels = config(tmp_path / "timm"), config(tmp_path / "huggingface")["id2label"]
    assert (timm["architecture"], timm["model_args"], timm["num_classes"]) == ("convnextv2_atto", {}, 1000)
    assert labels["0"] == "tench" and labels["2"] == "great white shark"
    assert len(set(labels.values())) == 1000


def test_atto_fcmae_becomes_its_file(oracle, tmp_path):
    pytest.importorskip("torch")
    model = kc.FCMAE(kc.ConvNeXtV2Atto(include_top=False))
    kc.load_weights(model, oracle / "atto_fcmae_script.pt")
    kc.save_weights_as(model, tmp_path / "atto.pth", "official")
    assert_same_file(tmp_path / "atto.pth", oracle / "atto_fcmae_script.pt")


# What other libraries read


@pytest.fixture(scope="module")
def written(small, tmp_path_factory):
    """A folder of files for `load_elsewhere`, and the answers of the models they were written from."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("written")
    images = np.random.default_rng(1).normal(size=(2, 64, 96, 3)).astype("float32")
    np.save(folder / "images.npy", images)
    atto = moderate(kc.ConvNeXtV2Atto(classes=7, input_shape=(64, 96, 3)))
    colours = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    model = moderate(mini_network(**colours))
    for name in ("timm", "huggingface"):
        kc.save_weights_as(model, folder / name, name)
        encoder = kc.FCMAE(mini_network(include_top=False, weights=model), decoder_dim=8)
        kc.save_weights_as(encoder, folder / f"{name}_encoder", name)
    kc.save_weights_as(atto, folder / "atto.safetensors", "timm")
    kc.save_weights_as(atto, folder / "official", "official")
    expected = {"logits": inner(model, "head", images), "atto": inner(atto, "head", images)}
    expected |= {"official": expected["atto"], "features": inner(model, "stage_3", images), "mean": colours["mean"]}
    return folder, expected


def moderate(model):
    """Random weights, no sort at its initial value, whose activations stay of the size of 1."""
    rng = np.random.default_rng(0)
    for v in model.weights:
        spread = 0.2 if len(v.shape) == 1 else 1 / np.sqrt(np.prod(v.shape[:-1]) if v.shape[-1] > 1 else 49)
        v.assign(keras.ops.convert_to_numpy(v) * (len(v.shape) == 1) + rng.normal(0, spread, v.shape))
    return model


def inner(model, layer, images):
    """What a layer gives for images that are already normalised."""
    part = keras.Model(model.get_layer("stem").input, model.get_layer(layer).output)
    return part.predict_on_batch(images)


def answers(library, folder):
    root = str(pathlib.Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), root)))
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": paths}
    program = [sys.executable, "-m", "tests.weights.load_elsewhere", library, str(folder)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    if done.returncode == NOT_HERE:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / f"{library}.npz") as file:
        return dict(file)


@pytest.mark.slow
def test_timm_loads_what_was_written(written):
    folder, expected = written
    found = answers("timm", folder)
    for name in ("logits", "atto", "official", "features", "mean"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=LOGITS, err_msg=name)
    assert found["input_size"].tolist() == [3, 64, 96] and found["classes"].tolist() == [7, 0]


@pytest.mark.slow
def test_transformers_loads_what_was_written(written):
    folder, expected = written
    found = answers("transformers", folder)
    for name in ("logits", "features", "mean"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=LOGITS, err_msg=name)
    assert found["processed"].tolist() == [1, 3, 64, 64]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="the torch backend imports torch itself")
def test_safetensors_are_written_without_torch(tmp_path):
    run_without_torch(
        "import keras_convnextv2 as kc\n"
        "model = kc.ConvNeXtV2((1, 1, 1, 1), (4, 4, 4, 4), classes=2)\n"
        f"kc.save_weights_as(model, {str(tmp_path)!r}, 'timm')\n"
    )


# Configs


def test_configs_say_what_the_model_is(tmp_path):
    model = kc.ConvNeXtV2(
        (1, 2, 1, 1), (4, 6, 8, 10), input_shape=(384, 416, 1), classes=3, stem_patch_size=1, drop_path_rate=0.1,
        mean=[0.3], std=[0.5],
    )  # fmt: skip
    kc.save_weights_as(model, tmp_path / "timm", "timm")
    timm = config(tmp_path / "timm")
    assert timm["model_args"] == {"depths": [1, 2, 1, 1], "dims": [4, 6, 8, 10], "patch_size": 1, "in_chans": 1}
    data = timm["pretrained_cfg"]
    assert (data["input_size"], data["pool_size"]) == ([1, 384, 416], [48, 52])
    assert (data["mean"], data["std"], data["crop_pct"], data["crop_mode"]) == ([0.3], [0.5], 1.0, "squash")
    kc.save_weights_as(model, tmp_path / "hf", "huggingface")
    hf, pictures = config(tmp_path / "hf"), config(tmp_path / "hf", "preprocessor_config.json")
    assert (hf["depths"], hf["hidden_sizes"], hf["patch_size"]) == ([1, 2, 1, 1], [4, 6, 8, 10], 1)
    assert (hf["num_channels"], hf["image_size"], hf["drop_path_rate"]) == (1, [384, 416], 0.1)
    assert hf["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    assert (pictures["size"], pictures["image_mean"], pictures["image_std"]) == ({"shortest_edge": 384}, [0.3], [0.5])


def test_pooling_by_the_largest_is_said_to_timm(tmp_path):
    kc.save_weights_as(mini_network(include_top=False, pooling="max"), tmp_path, "timm")
    assert config(tmp_path)["model_args"]["global_pool"] == "max" and config(tmp_path)["num_classes"] == 0


# Files whole or not at all


def test_a_fault_in_mid_write_leaves_what_was_there(small, tmp_path, monkeypatch):
    kc.save_weights_as(small, tmp_path, "huggingface")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = randomised(mini_network(classes=9))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        writing, "json", types.SimpleNamespace(dumps=full, loads=json.loads)
    )  # the weights are written by then
    with pytest.raises(OSError, match="the disk is full, nothing was written: .*"):
        kc.save_weights_as(other, tmp_path, "huggingface")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_others_may_read_the_file_as_any_new_file(small, tmp_path):
    (tmp_path / "other").touch()
    kc.save_weights_as(small, tmp_path, "timm")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_progress(small, tmp_path, capsys):
    kc.save_weights_as(small, tmp_path, "timm", verbose=1)
    assert "70/70" in capsys.readouterr().out
    kc.save_weights_as(small, tmp_path, "timm")
    assert not capsys.readouterr().out


# Errors


def refused(model, path, name, *words, error=ValueError):
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(error) as info:
        kc.save_weights_as(model, path, name)
    message = str(info.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert sorted(path.parent.rglob("*")) == before


def test_unknown_format(small, tmp_path):
    refused(small, tmp_path / "out", "mmpretrain", "'timm', 'huggingface', 'official'", "'mmpretrain'")


@pytest.mark.parametrize(
    "name, file, words",
    [
        ("timm", "model.pt", "ends in .safetensors"),
        ("official", "model.safetensors", "ends in .pt or .pth"),
        ("timm", "model.weights.h5", "ends in .safetensors"),
        ("huggingface", "atto.safetensors", "called model.safetensors"),
    ],
)
def test_endings_that_do_not_fit(small, tmp_path, name, file, words):
    refused(small, tmp_path / file, name, words, file)


@pytest.mark.parametrize("name, other", [("timm", "huggingface"), ("huggingface", "timm")])
def test_a_config_of_another_library_stays(small, tmp_path, name, other):
    kc.save_weights_as(small, tmp_path / "out", other)
    (tmp_path / "out" / "model.safetensors").rename(tmp_path / "out" / "served.safetensors")
    before = (tmp_path / "out" / "config.json").read_bytes()
    words = (
        f"must be one of {name!r} or absent",
        f"Received: one of {other!r}",
        f"use {str(tmp_path / 'out' / name)!r}",
    )
    refused(small, tmp_path / "out", name, "config.json", *words)
    assert (tmp_path / "out" / "config.json").read_bytes() == before
    kc.save_weights_as(small, tmp_path / "out", other)  # its own may be replaced


def test_a_config_that_is_no_json_stays(small, tmp_path):
    for text in ("mine", "3"):
        (tmp_path / "config.json").write_text(text)
        refused(small, tmp_path, "timm", "must be one of 'timm' or absent", "no JSON")


def test_no_path(small):
    with pytest.raises(TypeError, match="path must be a folder or a file. Received: None"):
        kc.save_weights_as(small, None, "timm")


def test_a_file_in_the_place_of_the_folder(small, tmp_path):
    (tmp_path / "out").write_text("mine")
    refused(small, tmp_path / "out", "timm", "into a folder", "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    "options, name, words",
    [
        ({"stem_patch_size": 2}, "timm", ("stem patches of 1 and 3 to 7", "Received: 2")),
        ({"stem_patch_size": 1}, "official", ("stem patch of 4", "Received: 1")),
        ({"pooling": "max"}, "huggingface", ("pool by the mean", "pooling='max'")),
    ],
)
def test_networks_that_a_library_cannot_build(tmp_path, options, name, words):
    refused(mini_network(**options), tmp_path / "out", name, *words)


@pytest.mark.parametrize("name", ["timm", "official"])
def test_other_than_four_stages(tmp_path, source, name):
    refused(source, tmp_path / "out", name, "4 stages", "a model of 2", "'huggingface'")


def test_models_that_are_not_ours(tmp_path):
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")], name="other")
    refused(dense, tmp_path / "out", "timm", "made by ConvNeXtV2", "'other'")
    refused("model.keras", tmp_path / "out", "timm", "must be a keras.Model", "'model.keras'", error=TypeError)
    inner = network(include_top=False)
    longer = keras.Model(inner.input, keras.layers.Dense(2, name="more")(inner.output), name="longer")
    refused(longer, tmp_path / "out", "huggingface", "not expected 'more/bias'")


def test_values_that_are_not_finite(tmp_path):
    model = mini_network()
    bias = model.get_layer("head").bias
    bias.assign(np.array([0, np.nan, 0, 0, 0, 0, 0], "float32"))
    refused(model, tmp_path / "out", "timm", "finite", "'head/bias'")


@pytest.mark.parametrize("package, name, extra", [("safetensors", "timm", "weights"), ("torch", "official", "torch")])
def test_missing_package_names_the_extra(small, tmp_path, monkeypatch, package, name, extra):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, package, None)
        patch.delitem(sys.modules, f"{package}.numpy", raising=False)
        refused(small, tmp_path / "out", name, f'pip install "keras_convnextv2[{extra}]"', error=ImportError)


def test_class_names_stand_in_the_config(tmp_path):
    model, names = mini_network(), [f"kind {i}" for i in range(7)]
    kc.save_weights_as(model, tmp_path / "named", "huggingface", class_names=names)
    config = json.loads((tmp_path / "named" / "config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(names)}
    assert config["label2id"] == {name: i for i, name in enumerate(names)}
    for given, message in ((names[:6], "6 names"), ([*names[:6], "kind 0"], "'kind 0' twice")):
        with pytest.raises(ValueError, match=f"class_names must be 7, each once. Received: {message}"):
            kc.save_weights_as(model, tmp_path / "no", "huggingface", class_names=given)
    with pytest.raises(ValueError, match="kept by 'huggingface' files. Received: format 'timm'"):
        kc.save_weights_as(model, tmp_path / "no", "timm", class_names=names)
    assert not (tmp_path / "no").exists()
