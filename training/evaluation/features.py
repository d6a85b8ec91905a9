"""What a frozen network makes of pictures."""

import keras
import numpy as np

from training.evaluation.classification import outputs_of


def features_of(predict, source, *, mirrored=False, done=None, **look):
    """(features float32 (N, views, D), labels int32 (N,)) of all pictures of a source.

    Args:
        predict, look: those of `outputs_of`; the outputs are (n, D).
        mirrored: a second view of each picture, mirrored left to right; else there is one.
        done: called with the number of pictures so far.
    """

    def views(images, weights):
        sides = [images, np.ascontiguousarray(images[:, :, ::-1])] if mirrored else [images]
        return np.stack([keras.ops.convert_to_numpy(predict(side, weights)) for side in sides], axis=1)

    features, labels = [], []
    for rows, of_rows in outputs_of(views, source, **look):
        features.append(rows.astype("float32"))
        labels.append(of_rows)
        if done:
            done(sum(map(len, labels)))
    return np.concatenate(features), np.concatenate(labels).astype("int32")
