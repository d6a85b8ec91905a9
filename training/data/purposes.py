"""What a random generator of the data is for. A new purpose gets a number of its own."""

import numpy as np

ORDER, SAMPLE, MIX, WINDOW_BORDER, WINDOW, SUBSET, VALIDATION = range(1, 8)


def generator(seed, purpose, *numbers):
    """The generator of one purpose, and of an epoch, a sample, a step ... of it."""
    return np.random.default_rng([seed, purpose, *numbers])
