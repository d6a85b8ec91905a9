"""How much of rows that are filled up is needed."""

from keras import ops

from keras_convnextv2.kernels.table import choose, transforming


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
