import keras

from keras_convnextv2 import kernels
from keras_convnextv2.layers.composite import plain
from keras_convnextv2.layers.dense import Dense
from keras_convnextv2.layers.initial import InitialNormal


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class Pointwise(Dense):
    """A linear layer over the channels of each position, with bias: the 1x1 convolutions of the network.

    A `keras.layers.Dense(dim)`, which LoRA and quantization reach as one; only the float path is formulated for the
    place where it runs (`keras_convnextv2.kernels`).

    Args:
        dim: output channels.
        lora_rank, lora_alpha, quantization_config: as in `keras.layers.Dense`.
    Shapes:
        (..., C) -> (..., dim); kernel (C, dim)
    """

    def __init__(self, dim, *, lora_rank=None, lora_alpha=None, quantization_config=None, **kwargs):
        self.dim = plain(dim)
        keras_knows = {"lora_alpha": lora_alpha, "quantization_config": quantization_config}
        super().__init__(
            self.dim,
            kernel_initializer=InitialNormal(),
            lora_rank=lora_rank,
            **{name: value for name, value in keras_knows.items() if value is not None},  # 3.12 has not all of them
            **kwargs,
        )

    def call(self, inputs, training=None):
        if self.lora_enabled:
            return super().call(inputs, training=training)
        return kernels.pointwise(inputs, kernels.tensor_of(self._kernel), kernels.tensor_of(self.bias))

    def get_config(self):
        own = ("lora_rank", "lora_alpha", "quantization_config", "name", "trainable", "dtype")
        config = super().get_config()
        return {"dim": self.dim, **{name: config[name] for name in own if name in config}}
