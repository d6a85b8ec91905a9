"""ConvNeXt V2 for Keras 3: the network, its masked autoencoder (FCMAE), its weights, on any backend."""

from keras_convnextv2 import visualize as visualize  # kc.visualize, as kc.segmentation and kc.detection
from keras_convnextv2.backbone import (
    ConvNeXtV2,
    ConvNeXtV2Atto,
    ConvNeXtV2Base,
    ConvNeXtV2Femto,
    ConvNeXtV2Huge,
    ConvNeXtV2Large,
    ConvNeXtV2Nano,
    ConvNeXtV2Pico,
    ConvNeXtV2Tiny,
    from_preset,
    pyramid,
)
from keras_convnextv2.detection import MaskRCNN
from keras_convnextv2.exports import export_model
from keras_convnextv2.fcmae import FCMAE
from keras_convnextv2.layers import GRN, ConvNeXtV2Block, DepthwiseConv2D, DropPath, class_names
from keras_convnextv2.memory import keep_memory
from keras_convnextv2.preprocessing import EvaluationTransform, decode_predictions, normalize, preprocess_input
from keras_convnextv2.segmentation import UPerNet
from keras_convnextv2.weights import (
    LoadReport,
    Preset,
    SaveReport,
    list_presets,
    load_weights,
    preset_transform,
    save_weights_as,
)

__version__ = "0.1.0"

__all__ = [
    "FCMAE",
    "GRN",
    "ConvNeXtV2",
    "ConvNeXtV2Atto",
    "ConvNeXtV2Base",
    "ConvNeXtV2Block",
    "ConvNeXtV2Femto",
    "ConvNeXtV2Huge",
    "ConvNeXtV2Large",
    "ConvNeXtV2Nano",
    "ConvNeXtV2Pico",
    "ConvNeXtV2Tiny",
    "DepthwiseConv2D",
    "DropPath",
    "EvaluationTransform",
    "LoadReport",
    "MaskRCNN",
    "Preset",
    "SaveReport",
    "UPerNet",
    "class_names",
    "decode_predictions",
    "export_model",
    "from_preset",
    "keep_memory",
    "normalize",
    "list_presets",
    "load_weights",
    "preprocess_input",
    "preset_transform",
    "pyramid",
    "save_weights_as",
]
