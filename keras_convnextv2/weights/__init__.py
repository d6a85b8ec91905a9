"""Weights: other people's files, read and written, and another model's variables."""

from keras_convnextv2.weights.loading import LoadReport, apply_weights, load_weights
from keras_convnextv2.weights.presets import Preset, list_presets, preset_transform
from keras_convnextv2.weights.writing import SaveReport, save_weights_as

__all__ = [
    "LoadReport",
    "Preset",
    "SaveReport",
    "apply_weights",
    "list_presets",
    "load_weights",
    "preset_transform",
    "save_weights_as",
]
