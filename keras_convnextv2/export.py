"""SavedModel, from every backend: an inference graph of plain operations that TensorFlow alone can run."""

import contextlib
import logging
import os
import subprocess
import sys
import tempfile

import keras

from keras_convnextv2 import kernels


def export_saved_model(model, path, verbose=True):
    """Write `model` as a TensorFlow SavedModel with a dynamic batch.

    On the TensorFlow backend it is traced here. JAX and torch cannot write a plain TensorFlow graph, so there the
    model is handed as a `.keras` file to a TensorFlow process of its own, which takes some seconds longer.

    Args:
        model: any Keras model of this package's layers.
        path: a folder; it is made.
        verbose: say in one line what is written and how.
    Returns:
        `path`. Its endpoint answers without this package and without Keras: `tf.saved_model.load(path).serve(images)`.
    Raises:
        ImportError: TensorFlow is not installed.
        RuntimeError: the TensorFlow process failed; its last line says why.
    """
    if keras.backend.backend() == "tensorflow":
        _say(verbose, f"Writing a SavedModel to {path}.")
        with kernels.plain_operations(), _quiet("tensorflow", "absl"):
            model.export(path, format="tf_saved_model", verbose=False)
    else:
        _require_tensorflow()
        _say(verbose, f"Writing a SavedModel to {path} through a TensorFlow process.")
        _export_through_tensorflow(model, path)
    return path


def _say(verbose, line):
    if verbose:
        print(line, flush=True)


@contextlib.contextmanager
def _quiet(*names):
    """TensorFlow narrates every file that it writes."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _require_tensorflow():
    from importlib.util import find_spec

    if find_spec("tensorflow") is None:
        raise ImportError('a SavedModel needs TensorFlow. Install it: pip install "keras_convnextv2[tensorflow]"')


def _export_through_tensorflow(model, path):
    program = (
        "import sys, keras, keras_convnextv2 as kc;"
        "kc.export_saved_model(keras.saving.load_model(sys.argv[1], compile=False), sys.argv[2], verbose=False)"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "model.keras")
        model.save(file)
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        known = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        environment = {
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",  # the GPU is busy with this process
            "PYTHONPATH": known,
        }
        environment.pop(kernels.FORM_VARIABLE, None)  # a form of this backend means nothing there
        command = [sys.executable, "-c", program, file, os.fspath(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise RuntimeError(f"the TensorFlow process that writes {path} failed: {''.join(last)}")
