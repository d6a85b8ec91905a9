"""Gathers: between all patches of an image and its visible ones, both ways, and of weighted rows.

Of patches each direction is the other's gradient. Said so, no scatter-add is ever emitted, which XLA and CPUs run
serially.
"""

from keras import ops

from keras_convnextv2.kernels.table import choose, transforming


def keep_patches(patches, visible, position):
    """All patches (B, L, F) -> the visible ones (B, K, F).

    visible (B, K): the indices of the visible patches; position (B, L): where a patch stands among them, K if hidden.
    """
    if transforming():
        return _take(patches, visible)
    return choose({"plain": _keep, "xla": _keep})(patches, visible, position)


def put_patches_back(patches, visible, position):
    """The visible patches (B, K, F) -> all (B, L, F), zeros where hidden."""
    if transforming():
        return _put_back(patches, position)
    return choose({"plain": _return, "xla": _return})(patches, visible, position)


def _keep(patches, visible, position):
    return _with_gradient(
        lambda x, visible, position: _take(x, visible),
        lambda dy, visible, position: _put_back(dy, position),
        patches,
        visible,
        position,
    )


def _return(patches, visible, position):
    return _with_gradient(
        lambda x, visible, position: _put_back(x, position),
        lambda dy, visible, position: _take(dy, visible),
        patches,
        visible,
        position,
    )


def _with_gradient(forward, backward, patches, visible, position):
    # The indices are arguments, since a gradient that closes over values of an outer trace cannot leave it; as floats,
    # which they are exactly up to 2**24, since integers have no slope to return.
    @ops.custom_gradient
    def gather(patches, *floats):
        indices = [ops.cast(x, "int32") for x in floats]

        def grad(*args, upstream=None):  # backends hand over the slope by position or by name
            dy = args[0] if upstream is None else upstream
            return backward(dy, *indices), *map(ops.zeros_like, floats)

        return forward(patches, *indices), grad

    return gather(patches, ops.cast(visible, "float32"), ops.cast(position, "float32"))


def _take(patches, indices):
    """A flat gather: batched ones (gather with batch_dims, take_along_axis) cost half the gain under XLA."""
    batch, count, features = ops.shape(patches)
    flat = indices + ops.arange(batch, dtype=indices.dtype)[:, None] * count
    taken = ops.take(ops.reshape(patches, (-1, features)), ops.reshape(flat, (-1,)), axis=0)
    return ops.reshape(taken, (-1, indices.shape[1], features))


def _put_back(patches, position):
    count = patches.shape[1]
    stays = ops.cast(position < count, patches.dtype)[:, :, None]
    return _take(patches, ops.minimum(position, count - 1)) * stays


def weighted_rows(rows, index, weight):
    """Rows (M, C) -> sums of `width` of them each, (N, C): index (N, width) says which, weight (N, width) how much."""
    if transforming():
        return _weighted(rows, index, weight)
    return choose({"plain": _weighted, "torch": _bags})(rows, index, weight)


def _weighted(rows, index, weight):
    weight = ops.cast(weight, rows.dtype)
    return sum(ops.take(rows, index[:, n], axis=0) * weight[:, n, None] for n in range(index.shape[1]))


def _bags(rows, index, weight):
    """One pass: nothing of the size of (N, width, C) is ever made."""
    from torch.nn.functional import embedding_bag

    return embedding_bag(index, rows, per_sample_weights=weight.to(rows.dtype), mode="sum")
