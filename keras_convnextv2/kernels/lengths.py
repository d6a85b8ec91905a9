"""How much of rows that are filled up is needed."""

import keras
from keras import ops

from keras_convnextv2.kernels.table import choose, transforming
from keras_convnextv2.kernels.values import is_known

PORTION = 16  # columns


def of_those_in_front(function, there, *rows):
    """`function(*rows)`, (B, N), of those columns of each (B, N, ...) alone that hold what is `there`, (B, N) bool.

    Elsewhere it is zero, as the function must be too. Compiled by JAX it is compiled once, and runs for each portion of
    columns that holds something; XLA of TensorFlow computes all.
    """
    count = ops.shape(there)[1]
    if keras.backend.backend() != "jax" or is_known(there) or count <= PORTION:
        last = least_length(there)
        return ops.pad(function(*(x[:, :last] for x in rows)), ((0, 0), (0, count - last)))
    import jax

    portions = -(-count // PORTION)
    there, *rows = (_portions(x, portions) for x in (there, *rows))

    def none(*rows):
        return ops.zeros(rows[0].shape[:2], "float32")

    def of_portion(carry, part):
        there, *rows = part
        return carry, jax.lax.cond(ops.any(there), function, none, *rows)

    _, found = jax.lax.scan(of_portion, None, (there, *rows))
    return ops.reshape(ops.swapaxes(found, 0, 1), (-1, portions * PORTION))[:, :count]


def _portions(x, count):
    """(B, N, ...) -> (count, B, PORTION, ...), with zeros at the end."""
    margins = [(0, 0)] * len(x.shape)
    margins[1] = (0, count * PORTION - x.shape[1])
    x = ops.reshape(ops.pad(x, margins), (-1, count, PORTION, *x.shape[2:]))
    return ops.swapaxes(x, 0, 1)


def least_length(there):
    """How many columns of (B, N) bool to keep so that nothing true is lost, at least one; all where that is not known.

    XLA compiles for one length. Elsewhere what is left out costs nothing.
    """
    if transforming():
        return _whole(there)
    return choose({"plain": _whole, "torch": _used, "tensorflow": _used})(there)


def _whole(there):
    return ops.shape(there)[1]


def _used(there):
    numbers = ops.arange(1, ops.shape(there)[1] + 1, dtype="int32")
    most = ops.max(ops.where(there, numbers, 1))
    return int(most) if hasattr(most, "item") else most
