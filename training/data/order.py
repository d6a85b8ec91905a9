"""Which picture comes when: counter arithmetic and the permutation of an epoch.

One counter decides everything: sample i since the start of training is number i % N in the order of epoch i // N. So a
resumed run needs nothing but the number of its first step, and nothing depends on how many workers read.
"""

import numpy as np


def epoch_order(count, seed, epoch):
    """The permutation of 0 .. count - 1 in which an epoch reads its samples."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def epoch_and_position(sample, count):
    """Epoch of sample `sample` since the start of training, and its position in the order of that epoch."""
    return divmod(sample, count)


def sample_range(first_step, steps, batch_size):
    """First sample of step `first_step`, and the sample after the last one of `steps` steps."""
    return first_step * batch_size, (first_step + steps) * batch_size
