"""The feature pyramid between backbone and heads."""

import math

import keras
from keras import ops

from keras_convnextv2.layers.composite import Composite, plain
from keras_convnextv2.layers.conv import convolution


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class FPN(Composite):
    """A feature pyramid network without norms: each map gets what the coarser ones know; one coarser map is added.

    Args:
        dims: channels of the maps that it gets, the finest first.
        dim: channels of those that it gives.
    Shapes:
        a list of (B, H_l, W_l, dims_l) -> a list of (B, H_l, W_l, dim) and a last one of every second position
    Source:
        Lin et al. 2017; mmdetection, necks/fpn.py. First weights: a normal of Glorot's variance.
    """

    def __init__(self, dims, dim=256, *, parts=None, **kwargs):
        super().__init__(parts=parts, **kwargs)
        self.dims, self.dim = plain(dims), plain(dim)
        self.laterals = [self._convolution(f"lateral_{n}", 1, channels) for n, channels in enumerate(self.dims)]
        self.smooths = [self._convolution(f"smooth_{n}", 3, self.dim) for n in range(len(self.dims))]
        self.restore()

    def _convolution(self, name, kernel_size, channels):
        deviation = math.sqrt(2 / (kernel_size**2 * (channels + self.dim)))
        return convolution(self.dim, kernel_size, deviation, name, self.dtype_policy)

    def build(self, input_shape):
        for lateral, smooth, shape in zip(self.laterals, self.smooths, input_shape, strict=True):
            lateral.build(shape)
            smooth.build((*shape[:-1], self.dim))

    def call(self, maps):
        found = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for level in reversed(range(len(found) - 1)):
            found[level] = found[level] + nearest(found[level + 1], ops.shape(found[level])[1:3])
        found = [smooth(x) for smooth, x in zip(self.smooths, found, strict=True)]
        return [*found, found[-1][:, ::2, ::2]]

    def compute_output_shape(self, input_shape):
        shapes = [(*shape[:-1], self.dim) for shape in input_shape]
        batch, height, width, _ = shapes[-1]
        return [*shapes, (batch, *(side and -(-side // 2) for side in (height, width)), self.dim)]

    def get_config(self):
        return {**super().get_config(), "dims": self.dims, "dim": self.dim}


def nearest(x, size):
    """(B, h, w, C) -> (B, H, W, C): position i is the old one floor(i * h / H)."""
    for axis, want in zip((1, 2), size, strict=True):
        have = ops.shape(x)[axis]
        if isinstance(want, int) and want == 2 * have:
            x = ops.repeat(x, 2, axis=axis)
        elif not isinstance(want, int) or want != have:
            x = ops.take(x, ops.arange(want, dtype="int32") * have // want, axis=axis)
    return x
