"""Object detection and instance segmentation: its metrics, of Pascal VOC and of COCO."""

from keras_convnextv2.detection.metrics import coco_metrics, voc_average_precision

__all__ = ["coco_metrics", "voc_average_precision"]
