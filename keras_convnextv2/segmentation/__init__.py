"""Semantic segmentation: the UPerNet, its predictions for pictures of any size, its metric."""

from keras_convnextv2.segmentation.metrics import ConfusionMatrix
from keras_convnextv2.segmentation.sliding import predict
from keras_convnextv2.segmentation.upernet import UPerNet

__all__ = ["ConfusionMatrix", "UPerNet", "predict"]
