"""Top-1 accuracy."""

import keras
import numpy as np

from training.data import evaluation_batches


def top_1(predict, source, *, batch_size, image_size, crop_fraction, workers=None, weights=None):
    """Percent of the source's pictures whose label has the largest logit.

    Args:
        predict: (images, weights) -> logits, as `make_predict` returns it.
    """
    right = total = 0.0
    sizes = {"batch_size": min(batch_size, source.count), "image_size": image_size, "crop_fraction": crop_fraction}
    for rows in evaluation_batches(source, **sizes, workers=workers):
        chosen = np.argmax(keras.ops.convert_to_numpy(predict(rows["images"], weights)), axis=-1)
        right += float(np.sum((chosen == rows["labels"]) * rows["weight"]))
        total += float(np.sum(rows["weight"]))
    return 100.0 * right / total
