"""The losses of a detector. Each is (B,): what a picture adds to an average over the samples of the batch, times B."""

from keras import ops

from keras_convnextv2.detection.arrays import of_arrays


@of_arrays
def rpn_losses(logits, deltas, wanted, positive, valid):
    """Of the region proposal network: binary cross-entropy, and the absolute error of the changes of positive boxes.

    Both are divided by the number of samples, of which each picture counts one positive and one negative at least.

    Args:
        logits: (B, n).
        deltas, wanted: (B, n, 4).
        positive, valid: (B, n) bool; what is valid and not positive is background.
    Source:
        mmdetection, dense_heads/anchor_head.py.
    """
    counts = [ops.sum(ops.cast(x, "float32"), axis=1) for x in (positive, valid & ops.logical_not(positive))]
    divisor = ops.mean(sum(ops.maximum(count, 1.0) for count in counts))
    errors = ops.softplus(ops.where(positive, -logits, logits))
    return {
        "loss_rpn_cls": _summed(errors, valid) / divisor,
        "loss_rpn_bbox": _summed(ops.sum(ops.abs(deltas - wanted), axis=-1), positive) / divisor,
    }


@of_arrays
def box_losses(logits, deltas, classes, wanted, positive, valid):
    """Of the box head: cross-entropy, and the absolute error of the changes for the true class.

    Both are divided by the number of samples.

    Args:
        logits: (B, n, classes + 1), the background last.
        deltas: (B, n, classes, 4).
        classes: (B, n) int, of the object of a positive sample.
        wanted: (B, n, 4).
    Source:
        mmdetection, bbox_heads/bbox_head.py.
    """
    divisor = ops.maximum(ops.mean(ops.sum(ops.cast(valid, "float32"), axis=1)), 1e-6)
    labels = ops.where(positive, classes, logits.shape[-1] - 1)
    errors = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    own = ops.take_along_axis(deltas, ops.where(positive, classes, 0)[..., None, None], axis=2)[:, :, 0]
    return {
        "loss_cls": _summed(errors, valid) / divisor,
        "loss_bbox": _summed(ops.sum(ops.abs(own - wanted), axis=-1), positive) / divisor,
    }


@of_arrays
def mask_errors(logits, classes, masks, positive):
    """Binary cross-entropy of the true class's mask, a mean over positions.

    Args:
        logits: (B, n, h, w, classes).
        classes: (B, n) int.
        masks: (B, n, h, w), 0 or 1.
    Returns:
        (B, n), zero where not positive
    """
    own = ops.take_along_axis(logits, ops.where(positive, classes, 0)[..., None, None, None], axis=-1)[..., 0]
    errors = ops.mean(ops.softplus(own) - own * masks, axis=(2, 3))
    return ops.where(positive, errors, 0.0)


@of_arrays
def mask_loss(errors, positive):
    """Of the mask head: the mean of `mask_errors` over the positive samples.

    Source:
        mmdetection, mask_heads/fcn_mask_head.py.
    """
    divisor = ops.maximum(ops.mean(ops.sum(ops.cast(positive, "float32"), axis=1)), 1e-6)
    return ops.sum(errors, axis=1) / divisor


def _summed(values, counts):
    """(B, n) -> (B,): the sum of the values that count."""
    return ops.sum(ops.where(counts, values, 0.0), axis=1)
