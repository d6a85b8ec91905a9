"""k-nearest-neighbour classification of features."""

import numpy as np

AT_ONCE = 2**25  # similarities in memory


def neighbour_votes(train, labels, test, *, classes, k=20, temperature=0.07):
    """Votes float32 (test, classes) of the k training features with the largest cosine to each test feature.

    A neighbour votes for its class with weight exp(cosine / temperature), here divided by that of the nearest one.

    Args:
        train, test: (N, D) and (M, D).
        labels: (N,), 0 .. classes - 1.
        k: at most N count.
    Source:
        Wu et al. 2018 (arXiv 1805.01978), section 3.4, with k = 200; k = 20 and the temperature as in DINO
        (arXiv 2104.14294), appendix F.
    """
    k = min(k, len(train))
    train, labels = _unit(train), np.asarray(labels)
    votes = np.zeros((len(test), classes), "float32")
    step = max(1, AT_ONCE // len(train))
    for first in range(0, len(test), step):
        cosine = _unit(test[first : first + step]) @ train.T
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        cosine = np.take_along_axis(cosine, nearest, axis=1)
        weights = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / temperature)
        rows = np.arange(first, first + len(cosine))[:, None]
        np.add.at(votes, (rows, labels[nearest]), weights)
    return votes


def _unit(rows):
    rows = np.asarray(rows, "float32")
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
