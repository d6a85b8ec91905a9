import keras
from keras import ops

from keras_convnextv2 import kernels
from keras_convnextv2.layers.composite import plain


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class GRN(keras.layers.Layer):
    """Global Response Normalization: channels of one image compete for spatial energy.

        G = sqrt(sum over positions of x**2);  y = gamma * x * G / (mean over channels of G + epsilon) + beta + x

    gamma and beta start at zero, so a new layer is the identity. With `mask`, hidden positions add no energy and
    come out as zero. A silent channel has slope zero, not NaN. Sums run in float32 at least.

    Args:
        epsilon: added to the channel mean, not to the energy.
    Raises:
        ValueError: an unknown number of channels.
    Shapes:
        inputs (B, H, W, C), or (B, N, C) of gathered visible rows; mask (B, H, W, 1), 1 = counts, or
        without the last axis; output like inputs.
    Source:
        ConvNeXt V2, section 4. Per image, as the reference's dense layer (models/utils.py:113-116). Its sparse layer
        pools over the whole batch (models/utils.py:28): parity with it holds at batch size 1.
    """

    _kernel = staticmethod(kernels.grn)

    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = plain(epsilon)
        self.autocast = False  # a float32 input must not become float16 before its energy is summed

    def build(self, input_shape):
        if input_shape[-1] is None:
            raise ValueError(f"GRN needs a known channel count. Received: input_shape={tuple(input_shape)}.")
        # Not cast either: a float16 gamma would lose what training put into it.
        as_given = {"shape": (input_shape[-1],), "initializer": "zeros", "autocast": False}
        self.gamma = self.add_weight(name="gamma", **as_given)
        self.beta = self.add_weight(name="beta", **as_given)

    def call(self, inputs, mask=None):
        if mask is not None and len(mask.shape) < len(inputs.shape):
            mask = ops.expand_dims(mask, -1)  # Keras' own masks have no channel
        x = inputs if mask is None else inputs * ops.cast(mask, inputs.dtype)
        shape = ops.shape(x)
        if len(shape) == 4:
            positions = None if None in x.shape[1:3] else x.shape[1] * x.shape[2]
            x = ops.reshape(x, (-1, positions or shape[1] * shape[2], shape[3]))  # (B, N, C)
        y = self._kernel(x, kernels.tensor_of(self.gamma), kernels.tensor_of(self.beta), self.epsilon)
        y = ops.reshape(y, (-1, *shape[1:]))
        if mask is not None:
            y = y * ops.cast(mask, y.dtype)  # beta must not light hidden positions
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class GeluGRN(GRN):
    """The exact GELU, then GRN, in the same passes over the memory: what a block runs."""

    _kernel = staticmethod(kernels.gelu_grn)
