"""What a sample of each task is: `example(rng, picture, target) -> dict of arrays`.

Worker processes import this room, so that nothing here may import Keras.
"""

import numpy as np

from training.data.masks import random_visible


def pretraining_example(augmentation, patches, visible):
    """`images` (h, w, C) of the augmentation and `visible` int32 (K,): K = visible of that many patches."""

    def example(rng, picture, target):
        return {"images": augmentation(rng, picture), "visible": random_visible(rng, patches, visible)}

    return example


def classification_example(augmentation):
    """`images` (h, w, C) of the augmentation and `labels` int32 ()."""

    def example(rng, picture, target):
        return {"images": augmentation(rng, picture), "labels": np.int32(target)}

    return example


def segmentation_example(augmentation):
    """`images` (h, w, C) and `labels` uint8 (h, w) of a `SegmentationAugmentation`."""

    def example(rng, picture, target):
        images, labels = augmentation(rng, picture, target)
        return {"images": images, "labels": labels}

    return example
