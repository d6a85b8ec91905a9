"""SavedModel: answers in a process that imports only TensorFlow, with plain operations in its graph."""

import importlib.util
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("a SavedModel needs TensorFlow", allow_module_level=True)

SERVE = """
import json, sys
sys.modules["keras_convnextv2"] = None  # importing it would fail
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
for name in ("one", "three"):
    np.save(f"{sys.argv[2]}/{name}_y.npy", loaded.serve(np.load(f"{sys.argv[2]}/{name}.npy")))
graph = loaded.signatures["serving_default"].graph.as_graph_def()
nodes = [n.op for n in graph.node] + [n.op for f in graph.library.function for n in f.node_def]
print(json.dumps({op: nodes.count(op) for op in ("DepthwiseConv2dNative", "While", "StatelessWhile")}))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    model = kc.ConvNeXtV2((1, 1, 2, 1), (8, 16, 24, 32), input_shape=(64, 96, 3), classes=5, drop_path_rate=0.1)
    model.predict(np.zeros((1, 64, 96, 3), "float32"), verbose=0)  # traced before, with the fast kernels
    rng = np.random.default_rng(0)
    for v in model.weights:
        v.assign(rng.normal(size=v.shape) * 0.2 + (1 if v.path.endswith("norm/gamma") else 0))
    for name, count in (("one", 1), ("three", 3)):
        np.save(folder / f"{name}.npy", rng.uniform(0, 255, (count, 64, 96, 3)).astype("float32"))
    path = kc.export_saved_model(model, str(folder / "saved"))
    command = [sys.executable, "-c", SERVE, path, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return model, folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["one", "three"])
def test_tensorflow_alone_gives_the_same_answer(exported, name):
    model, folder, _ = exported
    expected = ops.convert_to_numpy(model(np.load(folder / f"{name}.npy")))
    np.testing.assert_allclose(np.load(folder / f"{name}_y.npy"), expected, rtol=0, atol=1e-5)


def test_each_depthwise_layer_is_one_convolution(exported):
    _, _, counts = exported
    assert counts == {"DepthwiseConv2dNative": 5, "While": 0, "StatelessWhile": 0}


def test_the_model_still_runs_after_the_export(exported):
    model, folder, _ = exported
    assert np.isfinite(model.predict(np.load(folder / "three.npy"), verbose=0)).all()


def test_a_failing_process_is_named(tmp_path, monkeypatch):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("the TensorFlow backend exports in its own process")
    monkeypatch.setattr(keras.Model, "save", lambda self, path: open(path, "w").close())
    with pytest.raises(RuntimeError, match="the TensorFlow process that writes .* failed: "):
        kc.export_saved_model(kc.ConvNeXtV2((1,), (4,), input_shape=(8, 8, 3)), str(tmp_path / "saved"))
