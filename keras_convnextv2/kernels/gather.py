"""Moving between all patches of an image and its visible ones: gathers both ways, forward and backward.

Each direction is the other's gradient. Said so, no scatter-add is ever emitted, which XLA and CPUs run serially.
"""

from keras import ops

from keras_convnextv2.kernels.table import transforming


def keep_patches(patches, visible, position):
    """All patches (B, L, F) -> the visible ones (B, K, F).

    visible (B, K): the indices of the visible patches; position (B, L): where a patch stands among them, K if hidden.
    """
    return _with_gradient(lambda x: _take(x, visible), lambda dy: _put_back(dy, position), patches)


def put_patches_back(patches, visible, position):
    """The visible patches (B, K, F) -> all (B, L, F), zeros where hidden."""
    return _with_gradient(lambda x: _put_back(x, position), lambda dy: _take(dy, visible), patches)


def _with_gradient(forward, backward, patches):
    if transforming():
        return forward(patches)

    @ops.custom_gradient
    def gather(patches):
        def grad(*args, upstream=None):  # backends hand over the slope by position or by name
            return backward(args[0] if upstream is None else upstream)

        return forward(patches), grad

    return gather(patches)


def _take(patches, indices):
    """A flat gather: batched ones (gather with batch_dims, take_along_axis) cost half the gain under XLA."""
    batch, count, features = ops.shape(patches)
    flat = indices + ops.arange(batch, dtype=indices.dtype)[:, None] * count
    taken = ops.take(ops.reshape(patches, (-1, features)), ops.reshape(flat, (-1,)), axis=0)
    return ops.reshape(taken, (-1, indices.shape[1], features))


def _put_back(patches, position):
    count = patches.shape[1]
    shown = ops.cast(position < count, patches.dtype)[:, :, None]
    return _take(patches, ops.minimum(position, count - 1)) * shown
