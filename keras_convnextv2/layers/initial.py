"""The reference's initialisation of convolutions and linear layers."""

import keras


def initial_normal(scale=1.0):
    """A fresh initializer: Keras' draw the same values at every call of one instance.

    The reference's truncated normal has standard deviation 0.02 and is cut at an absolute 2, a hundred deviations
    away: a plain normal.
    """
    return keras.initializers.RandomNormal(stddev=0.02 * scale)
