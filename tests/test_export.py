"""SavedModel: answers in a process that imports only TensorFlow, with plain operations in its graph."""

import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("a SavedModel needs TensorFlow", allow_module_level=True)

TENSORFLOW = {**os.environ, "KERAS_BACKEND": "tensorflow"}  # TensorFlow may import Keras, and Keras its backend
SERVE = """
import json, sys
sys.modules["keras_convnextv2"] = None  # importing it would fail
import numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
for name in ("one", "three"):
    images = np.load(f"{sys.argv[2]}/{name}.npy")
    np.save(f"{sys.argv[2]}/{name}_y.npy", served.serve(images))
    for kind in ("uint8", "int32", "int64", "float16", "float64"):
        y = served.serve(images.astype(kind))
        np.testing.assert_allclose(served.serve(tf.constant(images.astype(kind))), y)
        if kind == "uint8":
            np.testing.assert_allclose(served.serve(images.astype("uint8").astype("float32")), y)
graph = served.signatures["serving_default"].graph.as_graph_def()
assert [x.dtype for x in served.signatures["serving_default"].inputs if x.dtype != tf.resource] == [tf.float32]
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
    path = kc.export_model(model, str(folder / "saved"))
    command = [sys.executable, "-c", SERVE, path, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=TENSORFLOW)
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
    with pytest.raises(RuntimeError, match="the tensorflow process that writes .* failed: "):
        kc.export_model(kc.ConvNeXtV2((1,), (4,), input_shape=(8, 8, 3)), str(tmp_path / "saved"))


def test_an_unknown_format_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="format must be one of 'tf_saved_model'. Received: 'tflite'"):
        kc.export_model(kc.ConvNeXtV2((1,), (4,), input_shape=(8, 8, 3)), tmp_path / "saved", "tflite")


def test_an_export_replaces_an_export_and_nothing_else(exported, tmp_path):
    model, folder, _ = exported
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("mine")
    with pytest.raises(ValueError, match="an export replaces an earlier one .* only. Received: .*photos"):
        kc.export_model(model, tmp_path / "photos", verbose=False)
    if keras.backend.backend() == "tensorflow":
        kc.export_model(model, tmp_path / "saved", verbose=False)
        kc.export_model(model, tmp_path / "saved", verbose=False)
        assert {p.name for p in tmp_path.iterdir()} == {"photos", "saved"}
    assert (tmp_path / "photos" / "one.jpg").read_text() == "mine"


SMALL = """
import sys, numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
assert served.serve(np.zeros((1, 40, 56, 3), "uint8")).shape == (1, 8)
try:
    served.serve(np.zeros((1, 7, 56, 3), "float32"))
except tf.errors.InvalidArgumentError as error:
    assert "images must be at least 16 x 16" in str(error), error
else:
    raise SystemExit("no error")
"""


def open_model():
    return kc.ConvNeXtV2((1, 1, 1), (4, 6, 8), include_top=False, pooling="avg", input_shape=(None, None, 3))


def test_a_picture_that_is_too_small_is_named_where_sizes_are_open(tmp_path):
    path = str(kc.export_model(open_model(), tmp_path / "saved", verbose=False))
    subprocess.run([sys.executable, "-c", SMALL, path], check=True, env=TENSORFLOW)


def test_predict_names_a_small_picture(tmp_path):
    model = open_model()
    assert model.predict(np.zeros((1, 40, 56, 3)), verbose=0).shape == (1, 8)
    data = small = np.zeros((1, 7, 56, 3), "float32")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        data = tf.data.Dataset.from_generator(
            lambda: iter([small]), output_signature=tf.TensorSpec((None, None, None, 3))
        )
    with pytest.raises(Exception, match="images must be at least 16 x 16"):
        model.predict(data, verbose=0)


PARENT = """
import sys, keras_convnextv2 as kc
from keras_convnextv2.exports import process
wait = "print(os.getpid(), flush=True); threading.Event().wait()"
process.PROGRAM = process.PROGRAM.replace("import keras,", wait + "; import keras,")
process.subprocess.Popen = lambda *a, stdout=None, real=process.subprocess.Popen, **k: real(*a, **k)
model = kc.ConvNeXtV2((1,), (4,), input_shape=(8, 8, 3))
process.export_in_process(model, sys.argv[1], "tf_saved_model", "tensorflow")
"""


@pytest.mark.skipif(os.name != "posix", reason="the end of a process is seen by its pipe")
def test_the_process_of_an_export_ends_with_its_parent(tmp_path):
    command = [sys.executable, "-c", PARENT, str(tmp_path / "saved")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert int(parent.stdout.readline()) > 0  # the child has started, and waits for ever
        parent.kill()
        assert parent.stdout.read() == ""  # comes back when the child, which holds the pipe too, has ended
    assert not list(tmp_path.iterdir())
