"""What goes into a layer's config: plain Python, and for a layer of layers what was set on its parts."""

import keras


def plain(value):
    """Numbers and sequences of numpy, or of any backend's tensors, as Python's own: what JSON keeps.

    Sequences become tuples.
    """
    if not hasattr(value, "tolist") and hasattr(value, "numpy"):  # a tensor of TensorFlow
        value = value.numpy()
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def settings_of(layer, parts):
    """{path of a part: {setting: value}} of the `parts` of a layer and theirs; None where nothing was set.

    Paths are names of parts, joined by a slash. A setting is what a part does not have from its parent: `trainable`,
    a quantized `dtype`, LoRA.
    """
    found = {}
    for part in parts:
        settings = {}
        if part.trainable != layer.trainable:
            settings["trainable"] = part.trainable
        if part.quantization_mode is not None:
            settings["dtype"] = keras.saving.serialize_keras_object(part.dtype_policy)
        if getattr(part, "lora_enabled", False):
            settings |= {"lora_rank": part.lora_rank, "lora_alpha": part.lora_alpha}
        if settings:
            found[part.name] = settings
        below = settings_of(part, _parts_of(part)) or {}
        found |= {f"{part.name}/{path}": values for path, values in below.items()}
    return found or None


def apply_settings(layer, parts, settings):
    """The other way, before anything is built; Keras set the layer's own flag before there were parts to hand it to.

    Raises:
        ValueError: settings of a part that the layer does not have.
    """
    known = dict(_named(parts))
    if unknown := set(settings or {}) - set(known):
        raise ValueError(f"parts must be among {sorted(known)}. Received: {sorted(unknown)}")
    if not layer.trainable:
        for part in parts:
            part.trainable = False
    for path, part in known.items():  # from the top down: a part hands its flag on
        for name, value in (settings or {}).get(path, {}).items():
            if name == "dtype":
                part.dtype_policy = keras.saving.deserialize_keras_object(value)
            else:
                setattr(part, name, value)


def _parts_of(layer):
    return layer._flatten_layers(include_self=False, recursive=False)


def _named(parts, before=""):
    for part in parts:
        yield f"{before}{part.name}", part
        yield from _named(_parts_of(part), f"{before}{part.name}/")


class Composite(keras.layers.Layer):
    """A layer of layers. It makes them in `__init__` from its own arguments and then calls `restore`.

    Args:
        parts: what was set on its parts, as `settings_of` gives it.
    """

    def __init__(self, *, parts=None, **kwargs):
        super().__init__(**kwargs)
        self._settings = parts
        self.autocast = False  # its parts cast what they get; a float32 input keeps its digits until then

    def restore(self):
        """The last line of a composite's `__init__`."""
        apply_settings(self, list(_parts_of(self)), self._settings)

    @property
    def parts(self):
        return settings_of(self, _parts_of(self))

    def get_config(self):
        config = super().get_config()
        return {**config, "parts": self.parts} if self.parts else config
