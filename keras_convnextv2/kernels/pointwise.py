"""The pointwise (1x1) layers: one matrix product over all positions."""

import math

from keras import ops

from keras_convnextv2.kernels.table import choose

FEW_ROWS = 256


def pointwise(x, kernel, bias):
    """(..., C), (C, D), (D,) -> (..., D)"""
    return choose({"plain": _pointwise_plain, "xla": _pointwise_xla, "torch": _pointwise_torch})(x, kernel, bias)


def _pointwise_plain(x, kernel, bias):
    return ops.matmul(x, kernel) + bias


def _pointwise_torch(x, kernel, bias):
    import torch
    import torch.nn.functional as F

    # On CPUs oneDNN's convolution is up to twice as fast as the matrix product, which is MKL's, but turns the kernel
    # around first: with few rows that costs more than it gains.
    few = math.prod(x.shape[:-1]) < FEW_ROWS
    if few or x.device.type != "cpu" or x.dtype != torch.float32:
        return F.linear(x, kernel.t(), bias)
    image = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, 1, N) in channels-last memory
    y = F.conv2d(image, kernel.t()[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], kernel.shape[1])


def _pointwise_xla(x, kernel, bias):
    @ops.custom_gradient
    def product(x, kernel, bias):
        rows = rows_of(x)

        def grad(*args, upstream=None):
            dy = rows_of(args[0] if upstream is None else upstream)
            dkernel = summed_products(rows, dy)
            dbias = ops.sum(ops.cast(dy, "float32"), axis=0)
            dx = ops.reshape(ops.matmul(dy, ops.transpose(kernel)), ops.shape(x))
            return dx, dkernel, ops.cast(dbias, bias.dtype)

        return ops.reshape(ops.matmul(rows, kernel) + bias, (*ops.shape(x)[:-1], kernel.shape[1])), grad

    return product(x, kernel, bias)


def summed_products(rows, dy):
    """(N, C), (N, D) -> (C, D): a kernel's gradient. One of the two is transposed in memory: the narrower one."""
    if rows.shape[1] <= dy.shape[1]:
        return ops.matmul(ops.transpose(rows), dy)
    return ops.transpose(ops.matmul(ops.transpose(dy), rows))


def rows_of(x):
    """(..., C) -> (N, C)"""
    return ops.reshape(x, (math.prod(ops.shape(x)[:-1]), x.shape[-1]))
