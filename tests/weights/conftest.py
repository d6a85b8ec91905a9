"""The models that the tests of weights share."""

import dataclasses
import time

import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2.sizes import SIZES
from keras_convnextv2.weights import hub as hub_module
from keras_convnextv2.weights import presets
from tests.weights import hub_server
from tests.weights.small_files import DEPTHS, DIMS, network, randomised


@pytest.fixture(scope="module")
def source():
    return randomised(network())


@pytest.fixture(scope="module")
def fcmae():
    return randomised(kc.FCMAE(network(include_top=False), decoder_dim=8))


@pytest.fixture(scope="module")
def target():
    """One model for all files; each test starts it from fresh values."""
    return network()


@pytest.fixture
def model(target):
    for v in target.weights:
        v.assign(np.full(v.shape, 0.5, "float32"))
    return target


@pytest.fixture(scope="module")
def mini():
    """The network of the oracle's `mini` files."""
    options = {"input_shape": (64, 96, 3), "classes": 7, "classifier_activation": None}
    return kc.ConvNeXtV2((1, 1, 2, 1), (8, 16, 24, 32), include_preprocessing=False, **options)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on loopback that huggingface-hub asks instead of the real one, with an empty cache and no patience."""
    library = pytest.importorskip("huggingface_hub")
    library.close_session()  # the next one is made with the environment below
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between its tries
    with hub_server.running() as server:
        environment = {  # read when huggingface_hub is imported, which may have happened
            "ENDPOINT": server.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": False,
            "AGENT_HARNESSES_PATH": str(tmp_path / "harnesses.json"),
        }
        for name, value in environment.items():
            monkeypatch.setattr(library.constants, name, value, raising=False)
        monkeypatch.setattr(hub_module, "_licences_said", set())
        yield server
    library.close_session()


@pytest.fixture
def small_presets(monkeypatch):
    """The published rows replaced by two for the tests' network, of the size "small": {tag: Preset}."""
    monkeypatch.setitem(SIZES, "small", (DEPTHS, DIMS))
    rows = {}
    for tag, classes in (("fcmae", 0), ("fcmae_ft_in1k", 5)):
        name, like = f"convnextv2_small.{tag}", presets.PRESETS[f"convnextv2_atto.{tag}"]
        facts = {"name": name, "hub": f"timm/{name}", "size": "small", "classes": classes, "input_size": 32}
        rows[tag] = dataclasses.replace(like, **facts)
    monkeypatch.setattr(presets, "PRESETS", {preset.name: preset for preset in rows.values()})
    return rows
