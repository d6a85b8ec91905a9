import keras

from keras_convnextv2.layers.composite import plain


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class Dense(keras.layers.Dense):
    """A `keras.layers.Dense` that may know what its outputs are called.

    It shares the name of Keras' class, since that name is its place in a `.weights.h5` file.

    Args:
        units: outputs.
        class_names: None, or a name for each of them; kept in the config, and so by `save`, `load_model` and
            `clone_model`.
        others: those of `keras.layers.Dense`.
    """

    def __init__(self, units, *, class_names=None, **kwargs):
        super().__init__(units, **kwargs)
        self.class_names = None if class_names is None else checked_names(class_names, units)

    def quantize(self, *args, **kwargs):
        # Keras refuses subclasses unless told: the formula of a quantized layer is Dense's own here too.
        return super().quantize(*args, **{**kwargs, "type_check": False})

    def get_config(self):
        config = super().get_config()
        return {**config, "class_names": self.class_names} if self.class_names else config


def checked_names(names, classes):
    """A tuple of one text for each class, all different."""
    names = tuple(map(str, plain(names)))
    if len(names) != classes or len(set(names)) != classes:
        twice = next((name for name in names if names.count(name) > 1), None)
        found = f"{twice!r} twice" if twice else f"{len(names)} names"
        raise ValueError(f"class_names must be {classes or 'none: no head'}, each once. Received: {found}")
    return names


def class_names(model):
    """What the outputs of a classifier are called, in their order; None where nobody said it.

    They stand in the config of its head: `ConvNeXtV2Tiny(classes=["cat", "dog"])` puts them there, and so do the
    training programs.

    Args:
        model: a model of this package, or one that contains it.
    Returns:
        A tuple of texts, for `decode_predictions(preds, class_names=...)`, or None.
    """
    named = [names for layer in model._flatten_layers() if (names := getattr(layer, "class_names", None))]
    return named[-1] if named else None
