"""`keras_cv.models.Backbone`: `from keras_convnextv2.adapters.keras_cv import ConvNeXtV2Backbone`."""

import keras
from keras_cv.models import Backbone

from keras_convnextv2.layers.network import stages_of


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class ConvNeXtV2Backbone(Backbone):
    """A ConvNeXt V2 as KerasCV's models take it, such as `DeepLabV3Plus` and `ImageClassifier`.

    Args:
        network: a model made by `ConvNeXtV2` or one of the constructors; its weights are shared, a head is left out.
        name: by default the network's.
    Raises:
        ValueError: under PyTorch, where KerasCV's models do not train.
    Shapes:
        images (B, H, W, C) -> the last map; `pyramid_level_inputs` names the layers of P2 ... P5.
    Units:
        images 0..255 if the network includes preprocessing: then leave the task's rescaling out.
    """

    def __init__(self, network, *, name=None, trainable=True):
        if keras.backend.backend() == "torch":
            raise ValueError(
                "KerasCV's models do not train under PyTorch (grad_input must be contiguous): "
                "KERAS_BACKEND must be tensorflow or jax. Received: torch."
            )
        stages = stages_of(network)
        super().__init__(inputs=network.input, outputs=stages[-1].output, name=name or network.name)
        self.trainable = trainable
        self.pyramid_level_inputs = {f"P{s + 2}": stage.name for s, stage in enumerate(stages)}
        # A function, so that Keras does not take the network for a layer of its own.
        self._serialized = lambda: keras.saving.serialize_keras_object(network)

    def get_config(self):
        return {"network": self._serialized(), "name": self.name, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        network = keras.saving.deserialize_keras_object(config["network"], custom_objects=custom_objects)
        return cls(**{**config, "network": network})
