"""A linear classifier on features: multinomial logistic regression, and the choice of its regulariser."""

import dataclasses

import numpy as np
import scipy.optimize

from training.data.purposes import VALIDATION, generator

EPSILON = 1e-6  # of the batch norm, as in MAE's linear probe
STEPS = 1000  # of L-BFGS at most
GRADIENT = 1e-4  # the largest component where it ends, as in scikit-learn's logistic regression


@dataclasses.dataclass(frozen=True)
class Linear:
    """scores = ((x - mean) / deviation) @ kernel + bias"""

    mean: np.ndarray
    deviation: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    converged: bool

    def __call__(self, features):
        """(N, D) -> (N, classes)"""
        return (features - self.mean) / self.deviation @ self.kernel + self.bias


def fit_linear(features, labels, *, classes, l2, batch_norm=True, start=None, gradient=GRADIENT):
    """The Linear that minimises the mean cross-entropy plus l2 / 2 times the squared norm of its kernel.

    The whole training set is one batch, in float64; scipy's L-BFGS.

    Args:
        features: (N, D).
        batch_norm: normalise each feature by mean and variance of the training set first: a batch norm without scale
            and shift, whose batch is the set.
        start: a Linear of the same features to begin from.
        gradient: its largest component at the end.
    """
    features = np.asarray(features, "float64")
    mean, deviation = np.zeros(features.shape[1]), np.ones(features.shape[1])
    if batch_norm:
        mean, deviation = features.mean(axis=0), np.sqrt(features.var(axis=0) + EPSILON)
    x, target = (features - mean) / deviation, np.eye(classes)[labels]
    basis, back = _basis(x, classes, l2)
    z = x @ basis
    first = np.zeros((x.shape[1] + 1, classes))
    if start is not None:
        first[:] = np.vstack([back @ start.kernel, start.bias])

    def objective(flat):
        kernel, bias = np.split(flat.reshape(first.shape), [x.shape[1]])
        loss, by_kernel, by_bias = loss_and_gradient(z, target, kernel, bias, 0.0)
        own = basis @ kernel
        loss, by_kernel = loss + l2 / 2 * np.sum(own**2), by_kernel + l2 * basis.T @ own
        return loss, np.vstack([by_kernel, by_bias]).ravel()

    longest = max(1.0, np.linalg.norm(back, ord=2)) * np.sqrt(x.shape[1])  # what a component there may be here
    options = {"maxiter": STEPS, "maxfun": 2 * STEPS, "gtol": gradient / longest, "ftol": 0.0}
    found = scipy.optimize.minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    kernel, bias = np.split(found.x.reshape(first.shape), [x.shape[1]])
    kernel = basis @ kernel
    ends = loss_and_gradient(x, target, kernel, bias, l2)[1:]
    return Linear(mean, deviation, kernel, bias[0], bool(max(np.abs(end).max() for end in ends) <= gradient))


def _basis(x, classes, l2):
    """(B, its inverse): the kernel is B times one for which the loss curves about alike in all directions.

    Features go together, so that the loss is a narrow valley: for 20,000 pictures of CIFAR-10 and an l2 of 1e-4 L-BFGS
    took 570 steps, and takes 44 with this. The minimum is the same.
    """
    curvature, directions = np.linalg.eigh(x.T @ x / len(x))
    scale = np.sqrt(np.maximum(curvature, 0) * (classes - 1) / classes**2 + l2)
    return directions / scale, (directions * scale).T


def loss_and_gradient(x, target, kernel, bias, l2):
    """(loss, its gradient by the kernel, by the bias).

    Shapes:
        x (N, D), target (N, C) with a one in each row, kernel (D, C), bias (1, C).
    """
    logits = x @ kernel + bias
    logits -= logits.max(axis=1, keepdims=True)
    powers = np.exp(logits)
    sums = powers.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(sums[:, 0]) - np.sum(logits * target, axis=1)) + l2 / 2 * np.sum(kernel**2)
    error = (powers / sums - target) / len(x)
    return loss, x.T @ error + l2 * kernel, error.sum(axis=0, keepdims=True)


def flat(features, labels):
    """Each view of (N, views, D) as a sample of its own: ((N * views, D), (N * views,))."""
    return features.reshape(-1, features.shape[-1]), labels.repeat(features.shape[1])


def choose_l2(features, labels, *, classes, choices, share, seed, batch_norm=True):
    """(the l2 with which a part of the training set tells most of the rest right, {l2: top-1 in percent there}).

    Of equal ones the largest is chosen. The part that is held out is drawn by `seed`: `share` of each class, at least
    one picture. Where a class has one picture nothing can be held out: then it is the middle one of the choices.

    Args:
        features: (N, views, D); all views are trained on, the first one of what is held out is told.
        labels: (N,)
    """
    choices = sorted(choices, reverse=True)
    if np.bincount(labels, minlength=classes).min() < 2:
        return choices[len(choices) // 2], {}
    held_out = np.zeros(len(labels), bool)
    for label in range(classes):
        members = generator(seed, VALIDATION, label).permutation(np.flatnonzero(labels == label))
        held_out[members[: max(1, round(share * len(members)))]] = True
    worth, linear = {}, None
    for l2 in choices:
        kept = flat(features[~held_out], labels[~held_out])
        linear = fit_linear(*kept, classes=classes, l2=l2, batch_norm=batch_norm, start=linear)
        right = linear(features[held_out, 0]).argmax(axis=1) == labels[held_out]
        worth[l2] = 100.0 * float(np.mean(right))
    return max(choices, key=worth.get), worth
