"""Object detection and instance segmentation: the Mask R-CNN, its operations, its metrics."""

from keras_convnextv2.detection.mask_rcnn import MaskRCNN

__all__ = ["MaskRCNN"]
