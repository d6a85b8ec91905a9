"""Mean intersection over union of a segmenter on photos of any size."""

import keras
import numpy as np

from keras_convnextv2.segmentation import ConfusionMatrix
from keras_convnextv2.segmentation import predict as label_map
from training.data.label_maps import IGNORE


class Windows:
    """What `kc.segmentation.predict` asks of a model, of a compiled function and certain weights."""

    def __init__(self, predict, weights=None, least_side=1):
        self._predict, self._weights, self.least_side = predict, weights, least_side

    def predict_on_batch(self, images):
        return keras.ops.convert_to_numpy(self._predict(np.ascontiguousarray(images), self._weights))


def agreement(predict, source, *, weights=None, window=None, resize=None, done=None, least_side=1):
    """The ConfusionMatrix of a source of photos with label maps.

    Args:
        predict: (images, weights) -> logits at full size, as `make_predict` returns it.
        window: (height, width), or None for photos as a whole.
        resize: (long, short) that photos are brought to, None: they stay.
        done: called with the number of photos after each.
        least_side: pixels that the network needs along each side.
    """
    matrix, model = ConfusionMatrix(len(source.classes), IGNORE), Windows(predict, weights, least_side)
    for index in range(source.count):
        picture, labels = source.opened(index)
        truth = labels.array(picture.size)
        matrix.update(truth, label_map(model, picture.array, window=window, size=resize))
        if done:
            done(index + 1)
    return matrix


def numbers(matrix):
    """{"miou", "pixel_accuracy", "mean_accuracy"} in percent."""
    found = matrix.result()
    names = {"miou": "miou", "pixel_accuracy": "accuracy", "mean_accuracy": "mean_accuracy"}
    return {name: 100.0 * found[key] for name, key in names.items()}
