"""The convolutions of the heads are Keras' own, with other formulations."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_convnextv2.layers.conv import Conv2D, PatchConv2DTranspose

KERAS = {Conv2D: keras.layers.Conv2D, PatchConv2DTranspose: keras.layers.Conv2DTranspose}
CASES = [
    (Conv2D, {"kernel_size": 3, "padding": "same", "activation": "relu"}),
    (Conv2D, {"kernel_size": 3, "padding": "same", "strides": 2}),
    (Conv2D, {"kernel_size": 3, "padding": "same", "dilation_rate": 2}),
    (Conv2D, {"kernel_size": (3, 1)}),
    (PatchConv2DTranspose, {"kernel_size": 2, "strides": 2, "activation": "relu"}),
    (PatchConv2DTranspose, {"kernel_size": 3, "strides": 2, "use_bias": False}),
]


@pytest.mark.parametrize("kind, options", CASES)
def test_equals_keras_layer_with_its_weights(kind, options):
    theirs, options = KERAS[kind], {"filters": 5, **options}
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype("float32")
    layers = [cls(data_format="channels_last", **options) for cls in (kind, theirs)]
    for layer in layers:
        layer.build(x.shape)
    layers[1].set_weights(layers[0].get_weights())
    ours, reference = (ops.convert_to_numpy(layer(x)) for layer in layers)
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-5)


def test_low_rank_adaptation_of_keras_goes_on_working():
    layer = Conv2D(5, 3, padding="same", data_format="channels_last")
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype("float32")
    before = ops.convert_to_numpy(layer(x))
    layer.enable_lora(2)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), before, rtol=0, atol=1e-5)
