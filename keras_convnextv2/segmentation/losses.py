"""The loss of logits against label maps."""

from keras import ops

from keras_convnextv2.kernels.resampling import resized

AVERAGES = ("all", "valid")


def pixel_loss(logits, labels, ignore=255, average="all"):
    """The cross-entropy of each picture; its mean over the batch is the loss of the batch.

    A label that is none of the classes makes the loss of its picture NaN and has no gradient: it trains nothing, and is
    seen.

    Args:
        logits: (B, h, w, classes); brought to the labels' size.
        labels: (B, H, W) or (B, H, W, 1), of any number type.
        ignore: the label of pixels that do not count.
        average: over "all" pixels of the batch, as mmsegmentation does, those that do not count included; or over the
            "valid" ones, as transformers does.
    Returns:
        (B,) float32
    """
    labels = ops.cast(labels, "int32")
    labels = ops.squeeze(labels, -1) if len(labels.shape) == 4 else labels
    logits = resized(ops.cast(logits, "float32"), ops.shape(labels)[1:3])
    valid = labels != ignore
    known = (labels >= 0) & (labels < logits.shape[-1])
    # backends differ in what they make of others: an error, NaN, or nothing
    losses = ops.sparse_categorical_crossentropy(ops.where(known, labels, 0), logits, from_logits=True)
    losses = ops.where(known, losses, float("nan"))
    valid = ops.cast(valid, "float32")
    # an ignored pixel has no part, whatever stands there
    sums = ops.sum(ops.where(valid > 0, losses, 0.0), axis=(1, 2))
    mean = ops.mean(valid) if average == "valid" else 1.0
    counts = ops.cast(ops.shape(labels)[1] * ops.shape(labels)[2], "float32") * mean
    return sums / ops.maximum(counts, 1e-6)
