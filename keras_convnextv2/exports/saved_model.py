"""SavedModel, from every backend: an inference graph of plain operations that TensorFlow alone can run."""

import contextlib
import functools
import importlib.util
import json
import logging
import pathlib

import keras
from keras import ops

from keras_convnextv2 import kernels
from keras_convnextv2.detection import MaskRCNN
from keras_convnextv2.detection.roi import paste
from keras_convnextv2.exports.process import export_in_process
from keras_convnextv2.layers import class_names
from keras_convnextv2.layers.network import network_of
from keras_convnextv2.segmentation import UPerNet
from keras_convnextv2.whole import check_replaceable, whole_folder

MARK = "saved_model.pb"
CLASS_NAMES = "class_names.json"  # a list, in the order of the outputs
NUMBERS = ("float32", "uint8", "float16", "bfloat16", "float64", "int8", "int16", "uint16", "int32", "int64")


def write_saved_model(model, path, verbose):
    """The format "tf_saved_model" of `export_model`."""
    check_replaceable(path, MARK)
    here = keras.backend.backend() == "tensorflow"
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError('a SavedModel needs TensorFlow. Install it: pip install "keras_convnextv2[tensorflow]"')
    if verbose:
        print(f"Writing a SavedModel to {path}{'' if here else ' through a TensorFlow process'}.", flush=True)
    if not here:
        export_in_process(model, path, "tf_saved_model", "tensorflow")
        return
    with whole_folder(path, MARK) as part, kernels.plain_operations(), _quiet("tensorflow", "absl"):
        if isinstance(network_of(model).input, list | tuple | dict):
            model.export(part, format="tf_saved_model", verbose=False)
        else:
            _save_for_every_number_type(model, part)
        if names := class_names(model):
            (pathlib.Path(part) / CLASS_NAMES).write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")


def _save_for_every_number_type(model, path):
    """With endpoints that take pictures of any number type: `serve`, of a segmenter also `label_map`.

    The network is traced once.
    """
    import tensorflow as tf

    (images,) = network_of(model).inputs
    shape = (None, *images.shape[1:])
    network = tf.function(functools.partial(_answer, model))
    network = network.get_concrete_function(tf.TensorSpec(shape, "float32", name=images.name))
    served = tf.Module()
    served.weights = [v.value for v in model.variables]
    endpoints = {"serve": lambda images: network(tf.cast(images, "float32"))}
    if isinstance(model, UPerNet):
        endpoints["label_map"] = lambda images: tf.argmax(endpoints["serve"](images), axis=-1, output_type="int32")
    signatures = {}
    for name, function in endpoints.items():
        function = tf.function(function)
        kinds = [function.get_concrete_function(tf.TensorSpec(shape, kind, name=images.name)) for kind in NUMBERS]
        setattr(served, name, function)
        signatures["serving_default" if name == "serve" else name] = kinds[0]
    tf.saved_model.save(served, path, signatures=signatures)


def _answer(model, images):
    """What the model says of float32 images; a detector's masks in pixels of the pictures."""
    found = model(images, training=False)
    if isinstance(model, MaskRCNN) and "masks" in found:
        found["masks"] = paste(found["masks"], found["boxes"], ops.shape(images)[1:3]) >= 0.5
    return found


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
