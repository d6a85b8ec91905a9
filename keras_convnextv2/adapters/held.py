"""What the backbones of other packages share: a file of one brings the whole network along."""

import copy

import keras


class HoldsNetwork:
    """The first base of such a backbone; the second is the other package's `Backbone`."""

    def hold(self, network, trainable):
        """To be called when the model is made. `trainable=True` leaves frozen what is frozen in the network."""
        # A function, so that Keras does not take the network for a layer of its own.
        self._serialized = lambda: keras.saving.serialize_keras_object(network)
        if not trainable:
            self.trainable = False

    def get_config(self):
        return {**super().get_config(), "network": self._serialized()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        serialized = copy.deepcopy(config["network"])  # Keras empties the config of a functional model
        network = keras.saving.deserialize_keras_object(serialized, custom_objects=custom_objects)
        return super().from_config({**config, "network": network})
