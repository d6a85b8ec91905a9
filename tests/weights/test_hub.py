"""Weights from the hub, against a stand-in on loopback: what works, and one line for all that does not."""

import logging
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2.weights import hub as hub_module
from keras_convnextv2.weights.hub import weights_file
from tests.weights.small_files import arrays_in, assert_same, network, values, write

pytest.importorskip("safetensors")
pytest.importorskip("huggingface_hub")

REPOSITORY = "timm/convnextv2_small.fcmae_ft_in1k"
FILE = f"{REPOSITORY}/model.safetensors"
URL = f"https://huggingface.co/{REPOSITORY}/resolve/main/model.safetensors"


@pytest.fixture(scope="module")
def content(tmp_path_factory, source):
    return write(tmp_path_factory.mktemp("file") / "model.safetensors", arrays_in("timm conv", source)).read_bytes()


@pytest.fixture
def published(hub, small_presets, content):
    """The hub with the file of the small preset."""
    hub.files[FILE] = content
    return hub


def said_in_one_line(error, call, *words):
    with pytest.raises(error) as info:
        call()
    assert "\n" not in str(info.value)
    for word in words:
        assert word in str(info.value), str(info.value)


# What works


@pytest.mark.parametrize(
    "name", ["imagenet", "fcmae_ft_in1k", "convnextv2_small.fcmae_ft_in1k", REPOSITORY, f"hf:{REPOSITORY}"]
)
def test_a_preset_is_downloaded_and_loaded(published, source, name):
    assert_same(network(weights=name), values(source))
    assert published.asked == [("HEAD", FILE), ("GET", FILE)]


def test_the_report_tells_the_name_and_the_file(published, model):
    report = kc.load_weights(model, "imagenet")
    assert report.source.startswith("imagenet (") and report.source.endswith("model.safetensors)")
    assert "models--timm--convnextv2_small.fcmae_ft_in1k" in report.source


def test_the_encoder_of_pre_training_leaves_norm_and_head(published, small_presets, source, tmp_path):
    arrays = {name: value for name, value in arrays_in("timm conv", source).items() if not name.startswith("head.")}
    path = write(tmp_path / "model.safetensors", arrays)
    published.files["timm/convnextv2_small.fcmae/model.safetensors"] = path.read_bytes()
    with pytest.warns(UserWarning, match="new in 'convnextv2': head and norm"):
        model = network(weights="fcmae", classes=3)
    assert_same(model, values(source), untouched={"norm/gamma", "norm/beta", "head/kernel", "head/bias"})


def test_skip_head_takes_a_preset_into_another_task(published, source):
    model = network(classes=9)
    report = kc.load_weights(model, "fcmae_ft_in1k", skip_head=True)
    assert set(report.untouched) == {"head/kernel", "head/bias"}
    assert_same(model, values(source), untouched=report.untouched)


def test_another_repository_and_a_file_in_it(hub, source, model, content):
    hub.files |= {"someone/network/model.safetensors": b"no", "someone/network/runs/best.safetensors": content}
    kc.load_weights(model, "hf:someone/network/runs/best.safetensors")
    assert_same(model, values(source))


def test_a_repository_with_a_torch_file_only(hub, source, model, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({n: torch.from_numpy(v) for n, v in arrays_in("huggingface", source).items()}, tmp_path / "model.bin")
    hub.files["someone/network/pytorch_model.bin"] = (tmp_path / "model.bin").read_bytes()
    assert kc.load_weights(model, "hf:someone/network").format == "huggingface"
    assert_same(model, values(source))


def test_the_second_time_the_cache_answers(published, monkeypatch):
    first = weights_file("imagenet", "small")
    monkeypatch.setattr(hub_module, "_check_sum", None)  # a file of gigabytes is summed once
    assert weights_file("imagenet", "small") == first
    assert published.asked == [("HEAD", FILE), ("GET", FILE), ("HEAD", FILE)]


@pytest.mark.parametrize("name", ["imagenet", f"hf:{REPOSITORY}"])
def test_offline_from_the_cache(published, source, monkeypatch, name):
    network(weights=name)
    published.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_same(network(weights=name), values(source))
    assert published.asked == []


def test_offline_a_torch_file_is_found_behind_the_missing_safetensors(hub, monkeypatch):
    hub.files["someone/network/pytorch_model.bin"] = b"content"
    first = weights_file("hf:someone/network")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert weights_file("hf:someone/network") == first


def test_a_hub_that_is_gone_leaves_the_cache(published, source, monkeypatch):
    network(weights="imagenet")
    nowhere(monkeypatch)
    assert_same(network(weights="imagenet"), values(source))


def test_a_small_file_has_no_sha256_to_check(published, source):
    published.fault = "git hash"
    assert_same(network(weights="imagenet"), values(source))


def test_the_licence_is_said_once(published, caplog):
    with caplog.at_level(logging.WARNING, "keras_convnextv2"):
        for name in ("imagenet", f"hf:{REPOSITORY}"):
            weights_file(name, "small")
    said = [record.getMessage() for record in caplog.records if record.name == "keras_convnextv2"]
    assert said == ["The published ConvNeXt V2 weights are under cc-by-nc-4.0: not for commercial use."]


def test_nothing_is_said_about_other_peoples_repositories(hub, content, caplog):
    hub.files["someone/network/model.safetensors"] = content
    with caplog.at_level(logging.WARNING, "keras_convnextv2"):
        weights_file("hf:someone/network")
    assert not [record for record in caplog.records if record.name == "keras_convnextv2"]


# What does not


def nowhere(monkeypatch):
    for name, end in (("ENDPOINT", ""), ("HUGGINGFACE_CO_URL_TEMPLATE", "/{repo_id}/resolve/{revision}/{filename}")):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", f"http://127.0.0.1:9{end}")  # nothing listens there


@pytest.mark.parametrize(
    "fault, error, words",
    [
        ("no file", FileNotFoundError, f"{REPOSITORY} has no model.safetensors"),
        ("no repository", FileNotFoundError, f"the hub has no repository {REPOSITORY}"),
        ("gated", FileNotFoundError, f"{REPOSITORY} must be asked for on its page first"),
        ("wrong size", OSError, "should be of size"),
        ("cut off", OSError, "RemoteProtocolError: peer closed connection"),
        ("wrong sum", ValueError, "came with the sha256"),
        ("nowhere", FileNotFoundError, "the hub is out of reach, ConnectError"),
        ("offline", FileNotFoundError, "HF_HUB_OFFLINE is set"),
    ],
)
def test_fault_is_one_line_with_the_cure(published, model, monkeypatch, fault, error, words):
    if fault == "no file":
        published.files[f"{REPOSITORY}/README.md"] = published.files.pop(FILE)
    elif fault == "no repository":
        published.files.clear()
    elif fault == "nowhere":
        nowhere(monkeypatch)
    elif fault == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:
        published.fault = fault
    before = values(model)
    call = lambda: kc.load_weights(model, "fcmae_ft_in1k")  # noqa: E731
    said_in_one_line(error, call, "'fcmae_ft_in1k'", words, f"download {URL} elsewhere", "give its path as weights=")
    assert_same(model, before)


@pytest.mark.parametrize("fault", ["wrong size", "cut off", "wrong sum"])
def test_a_failed_download_leaves_nothing_to_load(published, source, tmp_path, fault):
    published.fault = fault
    with pytest.raises((OSError, ValueError)):
        network(weights="imagenet")
    assert not list((tmp_path / "cache").glob("models--*/blobs/*"))
    published.fault = None
    assert_same(network(weights="imagenet"), values(source))


def test_without_a_network_only_the_first_file_is_tried_for_long(hub, monkeypatch):
    waits = []
    nowhere(monkeypatch)
    monkeypatch.setattr(time, "sleep", waits.append)
    counts = []
    for address in ("hf:someone/network/model.safetensors", "hf:someone/network"):
        said_in_one_line(FileNotFoundError, lambda a=address: weights_file(a), "out of reach, ConnectError")
        counts.append(len(waits))
    assert counts[1] == 2 * counts[0] > 0


def test_a_repository_without_weights_names_both_files(hub):
    hub.files["someone/network/config.json"] = b"{}"
    call = lambda: weights_file("hf:someone/network")  # noqa: E731
    said_in_one_line(FileNotFoundError, call, "has no model.safetensors or pytorch_model.bin")


def test_another_head_is_refused_before_the_download(published):
    call = lambda: kc.load_weights(network(classes=9), "imagenet")  # noqa: E731
    cure = "keras_convnextv2.load_weights(model, 'imagenet', skip_head=True)"
    said_in_one_line(ValueError, call, "a head of 5 classes, the model one of 9", cure)
    assert published.asked == []


def test_a_size_of_the_users_own_has_no_presets(hub):
    call = lambda: network(weights="imagenet")  # noqa: E731
    words = "'imagenet' needs a model of a published size (atto, ", "Received: depths (1, 2) and dims (4, 6)"
    said_in_one_line(ValueError, call, *words)
    assert hub.asked == []


def test_an_unknown_name_is_neither_file_nor_preset():
    call = lambda: weights_file("imagenet22k", "tiny")  # noqa: E731
    said_in_one_line(FileNotFoundError, call, "no weights file at 'imagenet22k'", "close to it: imagenet, fcmae_ft_in")


def test_a_name_that_the_hub_never_gives(hub):
    said_in_one_line(OSError, lambda: weights_file("hf:a/b--c"), "'hf:a/b--c'", "HFValidationError")


@pytest.mark.parametrize("address", ["hf:network", "hf:", "hf:some one/network", "hf:a/b//", "hf:a/b/../c.bin"])
def test_what_follows_hf_must_be_a_repository(address):
    words = ("owner/name or owner/name/file", repr(address))
    said_in_one_line(ValueError, lambda: weights_file(address), *words)


def test_a_file_of_another_kind_is_not_downloaded(hub):
    said_in_one_line(ValueError, lambda: weights_file("hf:a/b/model.onnx"), "must end in", "'hf:a/b/model.onnx'")
    assert hub.asked == []


def test_missing_package_names_the_extra(monkeypatch, small_presets):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    words = ("'imagenet' needs huggingface-hub", 'pip install "keras_convnextv2[weights]"', URL)
    said_in_one_line(ImportError, lambda: weights_file("imagenet", "small"), *words)


# Paths


def test_a_folder_called_like_a_preset_does_not_hide_it(published, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("imagenet").mkdir()
    assert_same(network(weights="imagenet"), values(source))


def test_a_file_comes_before_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("imagenet").write_bytes(b"x")
    said_in_one_line(ValueError, lambda: weights_file("imagenet", "tiny"), "must end in", "'imagenet'")


def test_a_folder_is_no_file(tmp_path):
    said_in_one_line(ValueError, lambda: weights_file(str(tmp_path)), "is a folder")


# As a user runs it

PROGRAM = """
import numpy as np, keras_convnextv2 as kc
model = kc.ConvNeXtV2((1, 2), (4, 6), input_shape=(16, 24, 3), classes=5, weights="hf:someone/network")
np.save("kernel.npy", model.get_layer("head").get_weights()[0])
"""


@pytest.mark.slow
def test_the_environment_variables_of_huggingface_hub(hub, content, source, tmp_path):
    hub.files["someone/network/model.safetensors"] = content
    root = str(pathlib.Path(__file__).parents[2])
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, cwd=tmp_path, env=environment, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "kernel.npy"), values(source)["head/kernel"])
    assert list((tmp_path / "home" / "hub").glob("models--someone--network/snapshots/*/model.safetensors"))
