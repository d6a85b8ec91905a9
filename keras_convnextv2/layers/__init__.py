"""The layers, one file each. They are registered with Keras under the package name "keras_convnextv2"."""

from keras_convnextv2.layers.block import ConvNeXtV2Block
from keras_convnextv2.layers.decoder import Decoder
from keras_convnextv2.layers.dense import Dense, class_names
from keras_convnextv2.layers.depthwise import DepthwiseConv2D
from keras_convnextv2.layers.downsample import Downsample
from keras_convnextv2.layers.drop_path import DropPath
from keras_convnextv2.layers.grn import GRN
from keras_convnextv2.layers.norm import LayerNorm
from keras_convnextv2.layers.patch_conv import PatchConv2D
from keras_convnextv2.layers.preprocessing import Preprocessing
from keras_convnextv2.layers.stage import Stage
from keras_convnextv2.layers.stem import Stem
from keras_convnextv2.layers.visible import MaskedMap, Visible, cut_patches, join_patches, visible_count

__all__ = [
    "GRN",
    "ConvNeXtV2Block",
    "Decoder",
    "Dense",
    "DepthwiseConv2D",
    "Downsample",
    "DropPath",
    "LayerNorm",
    "MaskedMap",
    "PatchConv2D",
    "Preprocessing",
    "Stage",
    "Stem",
    "Visible",
    "class_names",
    "cut_patches",
    "join_patches",
    "visible_count",
]
