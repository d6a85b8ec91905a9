"""`keras_hub.models.FeaturePyramidBackbone`: `from keras_convnextv2.adapters.keras_hub import ConvNeXtV2Backbone`."""

import keras
from keras_hub.models import FeaturePyramidBackbone

from keras_convnextv2.adapters.held import HoldsNetwork
from keras_convnextv2.layers.network import levels_of, stages_of


@keras.saving.register_keras_serializable(package="keras_convnextv2", name="KerasHubBackbone")
class ConvNeXtV2Backbone(HoldsNetwork, FeaturePyramidBackbone):
    """A ConvNeXt V2 as KerasHub's models take it, such as `RetinaNetBackbone` and `ImageClassifier`.

    Args:
        network: a model made by `ConvNeXtV2` or one of the constructors; its weights are shared, a head is left out.
        dtype: by default the network's; with another one the backbone has a copy of the network and of its weights.
        name: by default made from the name of the class, as KerasHub's are.
        trainable: False freezes the network.
    Shapes:
        images (B, H, W, C), whatever Keras' `image_data_format` -> the last map; `pyramid_outputs` has P2 ... P5.
    Units:
        images 0..255 if the network includes preprocessing.
    """

    def __init__(self, network, *, dtype=None, name=None, trainable=True):
        network = _in_dtype(network, dtype)
        maps = {level: stage.output for level, stage in levels_of(network).items()}
        dtype = dtype or stages_of(network)[0].dtype_policy
        super().__init__(inputs=network.input, outputs=maps[max(maps)], dtype=dtype, name=name)
        self.pyramid_outputs = maps
        self.hold(network, trainable)


def _in_dtype(network, dtype):
    """The network, or a copy if its dtype is another one."""
    # KerasHub writes a map where layers are quantized, and that is in the configs of the network's layers already.
    if dtype is None or isinstance(dtype, keras.dtype_policies.DTypePolicyMap):
        return network
    policy = keras.dtype_policies.get(dtype)
    if policy == stages_of(network)[0].dtype_policy:
        return network
    copy = keras.models.clone_model(
        network, clone_function=lambda layer: type(layer).from_config({**layer.get_config(), "dtype": policy})
    )
    copy.set_weights(network.get_weights())
    return copy
