"""Models for other programs to serve, a file a format."""

from keras_convnextv2.exports.saved_model import write_saved_model

FORMATS = {"tf_saved_model": write_saved_model}

__all__ = ["export_model"]


def export_model(model, path, format="tf_saved_model", *, verbose=True):
    """Write a model for inference, with a dynamic batch; nothing half-written ever stands at `path`.

    "tf_saved_model": a TensorFlow SavedModel of plain operations. It answers without this package and without Keras:

        served = tf.saved_model.load(path)  # keep it: its functions end with it
        served.serve(images)  # uint8, float32 or another number type
        served.label_map(images)  # of a `UPerNet`: the class of each pixel, (B, H, W) int32; `serve` gives the logits

    Of a `MaskRCNN`, `serve` gives what the model gives, but "masks" (B, N, H, W) bool in pixels of the pictures.

    Where the model keeps `class_names`, they stand beside it in class_names.json.

    On the TensorFlow backend it is traced here. JAX and torch cannot write a plain TensorFlow graph, so there the model
    is handed as a `.keras` file to a TensorFlow process of its own, which takes some seconds longer.

    Args:
        model: any Keras model of this package's layers.
        path: a folder; it is made, and replaces an earlier export there.
        format: "tf_saved_model".
        verbose: say in one line what is written and how.
    Returns:
        `path`.
    Raises:
        ImportError: TensorFlow is not installed.
        OSError: the disk is full.
        RuntimeError: the TensorFlow process failed; its last line says why.
        ValueError: another format, or something else than an export at `path`.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(map(repr, FORMATS))}. Received: {format!r}")
    FORMATS[format](model, path, verbose)
    return path
