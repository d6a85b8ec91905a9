"""The models that the tests of weights share."""

import numpy as np
import pytest

import keras_convnextv2 as kc
from tests.weights.small_files import network, randomised


@pytest.fixture(scope="module")
def source():
    return randomised(network())


@pytest.fixture(scope="module")
def fcmae():
    return randomised(kc.FCMAE(network(include_top=False), decoder_dim=8))


@pytest.fixture(scope="module")
def target():
    """One model for all files; each test starts it from fresh values."""
    return network()


@pytest.fixture
def model(target):
    for v in target.weights:
        v.assign(np.full(v.shape, 0.5, "float32"))
    return target


@pytest.fixture(scope="module")
def mini():
    """The network of the oracle's `mini` files."""
    options = {"input_shape": (64, 96, 3), "classes": 7, "classifier_activation": None}
    return kc.ConvNeXtV2((1, 1, 2, 1), (8, 16, 24, 32), include_preprocessing=False, **options)
