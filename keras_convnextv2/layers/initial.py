"""The reference's initialisation of convolutions and linear layers."""

import contextlib
import contextvars
import random

import keras
import numpy as np
from keras import ops

from keras_convnextv2.layers.composite import plain

STDDEV = 0.02  # of all kernels
_drawing = contextvars.ContextVar("drawing", default=True)


@contextlib.contextmanager
def drawing(needed):
    """Inside, with `needed` False here or further out, `InitialNormal` gives zeros: the weights come from elsewhere."""
    token = _drawing.set(needed and _drawing.get())
    try:
        yield
    finally:
        _drawing.reset(token)


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class InitialNormal(keras.initializers.Initializer):
    """A normal with mean 0, drawn by numpy: the same seed gives the same weights on every backend.

    The reference's truncated normal has standard deviation 0.02 and is cut at an absolute 2, a hundred deviations
    away: a plain normal. Drawing on the backend would compile one program for each shape on JAX.

    Args:
        stddev: its standard deviation.
        seed: int; None takes one from Python's generator, which `keras.utils.set_random_seed` seeds.
    """

    def __init__(self, stddev=STDDEV, seed=None):
        self.stddev = plain(stddev)
        self.seed = plain(seed)

    def __call__(self, shape, dtype=None):
        if not _drawing.get():
            return ops.convert_to_tensor(np.zeros(shape, "float32"), dtype=dtype or keras.config.floatx())
        seed = random.getrandbits(32) if self.seed is None else self.seed
        values = np.random.default_rng(seed).standard_normal(shape, dtype="float32")
        values *= np.float32(self.stddev)
        return ops.convert_to_tensor(values, dtype=dtype or keras.config.floatx())

    def get_config(self):
        return {"stddev": self.stddev, "seed": self.seed}
