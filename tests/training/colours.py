"""A network that answers by the colour of a picture, and pictures of one colour."""

import numpy as np
from PIL import Image

import keras_convnextv2 as kc
from keras_convnextv2.layers.network import network_layers

NAMES = ("red", "green", "blue")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def by_colour(names=NAMES, side=16, **options):
    """A network whose answer is the brightest channel: its stem and head do it, its one block does nothing."""
    shape = (side, side, 3)
    model = kc.ConvNeXtV2((1,), (3,), classes=names, input_shape=shape, stem_patch_size=4, **options)
    layers = network_layers(model)
    kernel = np.zeros((4, 4, 3, 3), "float32")
    kernel[:, :, range(3), range(3)] = 1 / 16
    for variable in model.trainable_variables:
        if variable.path.endswith(("project/kernel", "project/bias", "head/bias")):
            variable.assign(np.zeros(variable.shape))
        elif variable.path.endswith("stem/conv/kernel"):
            variable.assign(kernel)
    layers["head"].kernel.assign(np.eye(3)[:, [NAMES.index(name) if name in NAMES else 0 for name in names]] * 3)
    return model


def write_colour(path, colour, size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path)
