import keras
from keras import ops

from keras_convnextv2.layers.composite import plain
from keras_convnextv2.preprocessing import channel_statistics


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class Preprocessing(keras.layers.Layer):
    """`(images / 255 - mean) / std` inside the model; it holds no weights.

    Args:
        mean, std: one fraction of 1 per channel. None: ImageNet's for three channels, their mean for other counts.
    Shapes:
        (B, H, W, C) of any number type, 0..255 -> (B, H, W, C)
    """

    def __init__(self, mean=None, std=None, **kwargs):
        super().__init__(**kwargs)
        self.mean = plain(mean)
        self.std = plain(std)
        self.autocast = False  # 8-bit values must reach the subtraction whole

    def build(self, input_shape):
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})  # grey would broadcast
        mean, std = channel_statistics(input_shape[-1], self.mean, self.std)
        self._offset = tuple(255 * m for m in mean)
        self._scale = tuple(255 * s for s in std)

    def normalise(self, images):
        """Images 0..255 -> float32 network units."""
        return (ops.cast(images, "float32") - ops.array(self._offset, "float32")) / ops.array(self._scale, "float32")

    def undo(self, x):
        """Network units -> images 0..255, float32, not clipped."""
        return ops.cast(x, "float32") * ops.array(self._scale, "float32") + ops.array(self._offset, "float32")

    def call(self, inputs):
        return ops.cast(self.normalise(inputs), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "std": self.std}
