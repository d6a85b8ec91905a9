"""Object detection and instance segmentation: the Mask R-CNN, its predictions for any picture, its metrics."""

from keras_convnextv2.detection.mask_rcnn import MaskRCNN
from keras_convnextv2.detection.metrics import coco_metrics, voc_average_precision
from keras_convnextv2.detection.tiling import predict

__all__ = ["MaskRCNN", "coco_metrics", "predict", "voc_average_precision"]
