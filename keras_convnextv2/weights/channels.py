"""A stem for pictures of other channels than the file's: its kernel, and what the change of normalisation costs."""

import numpy as np

from keras_convnextv2.layers.network import preprocessing_of
from keras_convnextv2.preprocessing import channel_statistics


def statistics(model):
    """(mean, std) by which a model normalises its pictures, None where it takes them normalised."""
    found = preprocessing_of(model)
    return None if found is None else channel_statistics(found.input_spec.axes[-1], found.mean, found.std)


def adapted_stem(kernel, bias, channels, theirs, ours):
    """The stem's kernel and bias for other channels.

    To one channel: the sum over the file's. Grey pictures then give what they gave as equal channels, also where the
    model normalises them: the two networks then see (x - mean) / std and (x - mean_c) / std_c, and what lies between
    is linear. To several: channel k is the file's channel k modulo their number, all scaled by the two numbers' ratio.

    Args:
        kernel, bias: float32, as in the file.
        channels: how many the model has.
        theirs, ours: (mean, std) of the pictures that the kernel was trained on, and of the model's normalisation,
            fractions of 1; `ours` None where pictures come normalised.
    Shapes:
        kernel (p, p, C, dim), bias (dim,) -> (p, p, channels, dim), (dim,)
    """
    before = kernel.shape[2]
    if channels > 1:
        return kernel[:, :, np.arange(channels) % before] * np.float32(before / channels), bias
    kernel, bias = kernel.astype("float64"), bias.astype("float64")
    if ours is not None:
        (means, stds), (mean, std) = np.array(theirs), np.array(ours)
        bias = bias + np.einsum("hwio,i->o", kernel, (mean - means) / stds)
        kernel = kernel * (std / stds)[:, None]
    return kernel.sum(axis=2, keepdims=True).astype("float32"), bias.astype("float32")


def how_adapted(before, after, folded):
    """What `adapted_stem` did, for the warning and the report."""
    if after > 1:
        return f"its {before} channels repeated in turn and scaled by {before} / {after}"
    return f"the sum over its {before} channels" + (
        ", the difference of the normalisations folded in" if folded else ""
    )
