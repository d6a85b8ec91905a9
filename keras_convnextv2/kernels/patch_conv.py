"""Convolution whose stride is its kernel size, without padding: cut into patches, then one matrix product."""

from keras import ops

from keras_convnextv2.kernels.table import choose


def patch_conv(x, kernel, bias):
    """(B, H, W, C), (k, k, C, D), (D,) -> (B, H // k, W // k, D); the remainder of a size is dropped."""
    return choose({"plain": _plain, "loops": _matrix_product})(x, kernel, bias)


def _plain(x, kernel, bias):
    return ops.conv(x, kernel, strides=kernel.shape[0], padding="valid") + bias


def _matrix_product(x, kernel, bias):
    k, _, channels, width = kernel.shape
    height, breadth = (size // k for size in ops.shape(x)[1:3])
    x = ops.reshape(x[:, : height * k, : breadth * k], (-1, height, k, breadth, k, channels))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height, breadth, k * k * channels))
    return ops.matmul(x, ops.reshape(kernel, (k * k * channels, width))) + bias
