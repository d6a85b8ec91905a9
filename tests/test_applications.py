"""What Keras' tests of keras.applications ask of its constructors, asked of ours."""

import keras
import pytest

import keras_convnextv2 as kc
from keras_convnextv2.layers.initial import drawing
from keras_convnextv2.sizes import SIZES

QUICK = [size for size in SIZES if size not in ("large", "huge")]  # those take seconds a model


@pytest.fixture(autouse=True)
def nothing_drawn():
    with drawing(False):
        yield


def constructor(size):
    return getattr(kc, f"ConvNeXtV2{size.capitalize()}")


def mixed():
    return keras.layers.Conv2D(3, 2, strides=2, data_format="channels_last")(keras.Input((200, 200, 4)))


@pytest.mark.parametrize("size", SIZES)
def test_default_arguments_and_config(size):
    model = constructor(size)()
    assert model.input_shape == (None, 224, 224, 3) and model.output_shape == (None, 1000)
    assert model.layers[-1].activation.__name__ == "softmax"
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert [v.path for v in again.weights] == [v.path for v in model.weights]
    assert [v.shape for v in again.weights] == [v.shape for v in model.weights]


@pytest.mark.parametrize("size", QUICK)
@pytest.mark.parametrize("channels", [1, 4])
def test_variable_input_channels(size, channels):
    model = constructor(size)(weights=None, include_top=False, input_shape=(None, None, channels))
    assert model.output_shape == (None, None, None, SIZES[size][1][-1])


@pytest.mark.parametrize("size", QUICK)
@pytest.mark.parametrize("options", [{"input_shape": (123, 123, 3)}, {"input_tensor": mixed}], ids=["shape", "tensor"])
def test_custom_input(size, options):
    options = {name: value() if callable(value) else value for name, value in options.items()}
    assert constructor(size)(include_top=False, **options).output_shape == (None, 3, 3, SIZES[size][1][-1])


@pytest.mark.parametrize("size", QUICK)
def test_max_pooling(size):
    model = constructor(size)(weights=None, include_top=False, pooling="max")
    assert model.output_shape == (None, SIZES[size][1][-1])
