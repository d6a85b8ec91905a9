"""Top-1 accuracy."""

import keras
import numpy as np

from training.data import evaluation_batches
from training.devices import OneDevice


def top_1(predict, source, *, batch_size, image_size, crop_fraction, workers=None, weights=None, devices=None):
    """Percent of the source's pictures whose label has the largest logit.

    Args:
        predict: (images, weights) -> logits, as `make_predict` returns it.
        devices: of several processes each looks at its share; None: one.
    """
    devices = devices or OneDevice()
    right = total = 0.0
    batch_size = -(-min(batch_size, source.count) // devices.processes) * devices.processes
    sizes = {"batch_size": batch_size, "image_size": image_size, "crop_fraction": crop_fraction}
    for rows in evaluation_batches(source, **sizes, workers=workers, share=devices.share):
        chosen = np.argmax(keras.ops.convert_to_numpy(predict(rows["images"], weights)), axis=-1)
        right += float(np.sum((chosen == rows["labels"]) * rows["weight"]))
        total += float(np.sum(rows["weight"]))
    right, total = devices.sum([right, total])
    return 100.0 * right / total
