"""`keras_cv.models.Backbone`: `from keras_convnextv2.adapters.keras_cv import ConvNeXtV2Backbone`."""

import keras
from keras_cv.models import Backbone

from keras_convnextv2.adapters.held import HoldsNetwork
from keras_convnextv2.layers.network import levels_of


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class ConvNeXtV2Backbone(HoldsNetwork, Backbone):
    """A ConvNeXt V2 as KerasCV's models take it, such as `RetinaNet`, `DeepLabV3Plus` and `ImageClassifier`.

    Args:
        network: a model made by `ConvNeXtV2` or one of the constructors; its weights are shared, a head is left out.
        name: by default the network's.
        trainable: False freezes the network.
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
        levels = levels_of(network)
        super().__init__(inputs=network.input, outputs=levels[max(levels)].output, name=name or network.name)
        self.pyramid_level_inputs = {level: stage.name for level, stage in levels.items()}
        self.hold(network, trainable)
