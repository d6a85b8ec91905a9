"""Weights: reading other people's files and taking over another model's variables."""

from keras_convnextv2.weights.loading import LoadReport, apply_weights, load_weights

__all__ = ["LoadReport", "apply_weights", "load_weights"]
