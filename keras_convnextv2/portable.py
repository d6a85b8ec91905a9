"""What a saved model says of its optimizer, so that every backend goes on with it."""

import copy

import keras

BACKENDS_OWN = "keras.src.backend."


class Portable:
    """A mixin in front of `keras.Model`: compiled on one backend, its file can be evaluated and trained on another.

    On torch, Keras records an optimizer of that backend alone: such a file cannot be loaded where torch is missing, and
    cannot be trained by another backend. And of an optimizer that has not trained yet, each loading warns that its
    variables are missing.
    """

    def get_compile_config(self):
        config = super().get_compile_config()
        return {**_public(config), "fresh": not getattr(self.optimizer, "built", True)} if config else config

    def compile_from_config(self, config):
        config = dict(config)
        fresh = config.pop("fresh", False)
        super().compile_from_config(config)
        if fresh and self.optimizer.built:
            self.optimizer = type(self.optimizer).from_config(self.optimizer.get_config())


class AroundBackbone(Portable):
    """A mixin in front of `keras.Model` for what holds a backbone, whose config has the backbone's own."""

    @classmethod
    def from_config(cls, config, custom_objects=None):
        serialized = copy.deepcopy(config["backbone"])  # Keras empties the config of a functional model
        backbone = keras.saving.deserialize_keras_object(serialized, custom_objects=custom_objects)
        return cls(**{**config, "backbone": backbone})


def _public(config):
    """A config in which optimizers have their public names."""
    if isinstance(config, list | tuple):
        return type(config)(map(_public, config))
    if not isinstance(config, dict):
        return config
    config = {key: _public(value) for key, value in config.items()}
    own = str(config.get("module")).startswith(BACKENDS_OWN)
    if own and hasattr(keras.optimizers, str(config.get("class_name"))):
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config
