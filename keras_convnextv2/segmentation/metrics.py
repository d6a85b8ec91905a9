"""How well label maps agree: one confusion matrix over the whole set."""

import numpy as np


class ConfusionMatrix:
    """Counts of (true class, predicted class) over all pixels of a set, and what follows from them.

    Args:
        classes: how many.
        ignore: the label of pixels that do not count.
    Example:
        >>> matrix = ConfusionMatrix(2)
        >>> matrix.update([[0, 1, 255]], [[0, 0, 1]])
        >>> matrix.result()["miou"]
        0.25
    """

    def __init__(self, classes, ignore=255):
        self.classes = classes
        self.ignore = ignore
        self.counts = np.zeros((classes, classes), "int64")  # rows are the labels

    def update(self, labels, predictions):
        """Count label maps of any shape against predicted ones of the same.

        Raises:
            ValueError: shapes that differ, a class outside of 0..classes - 1.
        """
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        if labels.shape != predictions.shape:
            raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} must have the same shape.")
        counted = labels != self.ignore
        labels, predictions = labels[counted].astype("int64"), predictions[counted].astype("int64")
        for name, values in (("labels", labels), ("predictions", predictions)):
            if values.size and not 0 <= values.min() <= values.max() < self.classes:
                bad = values[(values < 0) | (values >= self.classes)][0]
                raise ValueError(f"{name} must be in 0..{self.classes - 1} or {self.ignore}. Received: {bad}.")
        cells = self.classes * labels + predictions
        self.counts += np.bincount(cells, minlength=self.classes**2).reshape(self.counts.shape)

    def result(self):
        """{"miou", "iou", "accuracy", "mean_accuracy"}: fractions of one; of classes that occur nowhere NaN.

        "iou" is an array, one number a class. Classes that occur nowhere do not count in the means.
        """
        right = np.diagonal(self.counts).astype("float64")
        true, predicted = self.counts.sum(1), self.counts.sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            iou, accuracy = right / (true + predicted - right), right / true
        total = self.counts.sum()
        return {
            "miou": _mean(iou),
            "iou": iou,
            "accuracy": float(right.sum() / total) if total else float("nan"),
            "mean_accuracy": _mean(accuracy),
        }


def _mean(values):
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
