"""What every test relies on: quiet libraries, seeded draws, and the folders of other people's files."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib

import keras
import pytest


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def float32_again():
    """For a test that changes Keras' global dtype policy."""
    yield
    keras.config.set_dtype_policy("float32")


def _folder(variable):
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set: the folder of reference files is not here")
    return pathlib.Path(os.environ[variable])


@pytest.fixture(scope="session")
def oracle():
    """Weight files and expected values made with other implementations."""
    return _folder("KERAS_CONVNEXTV2_ORACLE")


@pytest.fixture(scope="session")
def data_folder():
    """Small real image sets."""
    return _folder("KERAS_CONVNEXTV2_DATA")
