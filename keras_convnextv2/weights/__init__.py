"""Weights: reading other people's files and taking over another model's variables."""

from keras_convnextv2.weights.loading import LoadReport, apply_weights, load_weights
from keras_convnextv2.weights.presets import Preset, list_presets

__all__ = ["LoadReport", "Preset", "apply_weights", "list_presets", "load_weights"]
