"""Arrays of any kind as those of the backend, and sizes that may be known only when it computes (TensorFlow)."""

import functools

import numpy as np
from keras import ops, tree

from keras_convnextv2.kernels.values import is_known

SHORTER = {"float64": "float32", "int64": "int32"}


def of_arrays(function):
    """The function, which then takes numpy's arrays too; those of 64 bits become 32."""

    @functools.wraps(function)
    def with_tensors(*args, **kwargs):
        args, kwargs = tree.map_structure(_tensor, (args, kwargs))
        return function(*args, **kwargs)

    return with_tensors


def _tensor(x):
    if not isinstance(x, np.ndarray):
        return x
    return ops.convert_to_tensor(x, dtype=SHORTER.get(str(x.dtype), x.dtype))


def count_of(classes):
    """How many classes a number of them, or their names, are."""
    return classes if isinstance(classes, int | np.integer) else len(classes)


def known(x):
    """The values of an array as numpy's, or None while a compiler or a transform traces what is done with them."""
    return ops.convert_to_numpy(x) if is_known(x) else None


def least(*sizes):
    """The smallest of sizes, each an int or a tensor."""
    if all(isinstance(size, int) for size in sizes):
        return min(sizes)
    return functools.reduce(ops.minimum, sizes)


def vector(sizes, dtype="int32"):
    """Sizes, each an int or a tensor, as one tensor."""
    return ops.stack([ops.cast(size, dtype) for size in sizes])
