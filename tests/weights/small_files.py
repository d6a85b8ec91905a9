"""A tiny network, and files of any format that hold its weights."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2.weights.matching import expand, measure
from keras_convnextv2.weights.rows import CONVERSIONS, OWN, READABLE

DEPTHS, DIMS = (1, 2), (4, 6)
FORMATS = {table.name: table for table in READABLE}


def network(**options):
    return kc.ConvNeXtV2(DEPTHS, DIMS, **{"input_shape": (16, 24, 3), "classes": 5, **options})


def values(model):
    return {v.path: ops.convert_to_numpy(v) for v in model.weights}


def randomised(model):
    """The model with every weight away from its initialisation, and representable in float16 and bfloat16."""
    rng = np.random.default_rng(0)
    for v in model.weights:
        v.assign(rng.normal(size=v.shape).astype(ml_dtypes.bfloat16).astype("float16").astype("float32"))
    return model


def arrays_in(format_name, model):
    """What a file of that format with the model's weights holds."""
    held = values(model)
    size = measure(OWN, {path: value.shape for path, value in held.items()})
    return {
        pair.theirs: np.ascontiguousarray(CONVERSIONS[pair.conversion].inverse(held[pair.ours]))
        for pair in expand(FORMATS[format_name], size)
        if pair.ours in held
    }


def assert_same(model, expected, untouched=()):
    for path, value in values(model).items():
        if path not in untouched:
            np.testing.assert_array_equal(value, expected[path], err_msg=path)


def write(path, arrays):
    from safetensors.numpy import save_file

    save_file(arrays, path)
    return path


def refused(model, path, *words, error=ValueError, **options):
    before = values(model)
    with pytest.raises(error) as info:
        kc.load_weights(model, path, **options)
    message = str(info.value)
    assert "\n" not in message
    for word in (*words, str(path)):
        assert word in message, message
    assert_same(model, before)


def run_without_torch(program):
    """Runs a program in a process of its own, which fails if it imports torch."""
    program += "import sys\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
