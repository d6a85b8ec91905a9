"""Top-1 and top-5 accuracy, and which class is taken for which."""

import keras
import numpy as np

from training.data import evaluation_batches
from training.devices import ONE


def outputs_of(predict, source, *, batch_size, image_size, crop_fraction, workers=None, weights=None, devices=ONE):
    """(outputs (n, ...), labels (n,) or None) of a source, batch by batch, each picture once.

    Args:
        predict: (images, weights) -> outputs, as `make_predict` returns it.
        devices: of several processes each looks at its share.
    """
    batch_size = -(-min(batch_size, source.count) // devices.processes) * devices.processes
    sizes = {"batch_size": batch_size, "image_size": image_size, "crop_fraction": crop_fraction}
    for rows in evaluation_batches(source, **sizes, workers=workers, share=devices.share):
        count = int(np.sum(rows["weight"]))  # those that fill up the last batch stand at its end
        labels = rows["labels"][:count] if "labels" in rows else None
        yield keras.ops.convert_to_numpy(predict(rows["images"], weights))[:count], labels


def top_1(predict, source, *, devices=ONE, **look):
    """Percent of the source's pictures whose label has the largest logit.

    Args:
        predict, devices, look: those of `outputs_of`.
    """
    pairs = outputs_of(predict, source, devices=devices, **look)
    right = sum(int(np.sum(np.argmax(scores, -1) == labels)) for scores, labels in pairs)
    return 100.0 * devices.sum(right).item() / source.count


def ranks(scores, labels):
    """How many classes stand before each sample's own, int (B,): 0 is right.

    Of equal scores the first one leads, as it does for argmax.

    Raises:
        ValueError: scores that are not finite, which have no order.
    Shapes:
        scores (B, classes), labels (B,).
    """
    bad = int(np.sum(~np.isfinite(scores).all(axis=-1)))
    if bad:
        raise ValueError(f"the scores of the model must be finite. Received: NaN or inf for {bad} of {len(scores)}")
    own = np.take_along_axis(scores, np.asarray(labels)[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < np.asarray(labels)[:, None]
    return np.sum((scores > own) | ((scores == own) & earlier), axis=1)


def tally(batches, outputs, width):
    """(confusion (classes, width), in_five (classes,)), int64: whom pictures were taken for, who was among the first 5.

    Args:
        batches: (scores (n, width), labels (n,)), labels in 0 .. classes - 1.
        outputs: (classes,) the output of each class.
    """
    outputs = np.asarray(outputs)
    confusion, in_five = np.zeros((len(outputs), width), "int64"), np.zeros(len(outputs), "int64")
    for scores, labels in batches:
        np.add.at(in_five, labels[ranks(scores, outputs[labels]) < 5], 1)
        np.add.at(confusion, (labels, np.argmax(scores, axis=-1)), 1)
    return confusion, in_five


def accuracies(confusion, in_five, outputs):
    """{"top_1", "top_5", "top_1_standard_error", "mean_class_top_1"} in percent, of a tally.

    The standard error is that of so many pictures; the mean over classes counts those that have pictures.
    """
    images = confusion.sum(axis=1)
    right = confusion[np.arange(len(images)), np.asarray(outputs)]
    share = right.sum() / images.sum()
    return {
        "top_1": 100.0 * float(share),
        "top_5": 100.0 * float(in_five.sum() / images.sum()),
        "top_1_standard_error": 100.0 * float(np.sqrt(share * (1 - share) / images.sum())),
        "mean_class_top_1": 100.0 * float(np.mean(right[images > 0] / images[images > 0])),
    }
