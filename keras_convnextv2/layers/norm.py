import keras
from keras import ops

from keras_convnextv2 import kernels
from keras_convnextv2.layers.composite import plain


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class LayerNorm(keras.layers.Layer):
    """Layer normalisation over channels: `gamma * (x - mean) / sqrt(variance + epsilon) + beta` at each position.

    The statistics run in float32 at least and are computed in two passes: the mean is subtracted before squaring.

    Args:
        epsilon: 1e-6 in the whole reference; Keras' own layer has 1e-3.
    Shapes:
        (..., C) -> (..., C)
    Source:
        ConvNeXt V2 reference, models/utils.py, LayerNorm.
    """

    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = plain(epsilon)
        self.autocast = False  # a float32 input keeps its digits until the statistics are made

    def build(self, input_shape):
        self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones", autocast=False)
        self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros", autocast=False)

    def call(self, inputs):
        gamma, beta = kernels.tensor_of(self.gamma), kernels.tensor_of(self.beta)
        return ops.cast(kernels.layer_norm(inputs, gamma, beta, self.epsilon), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}
