"""What every test relies on: quiet libraries, seeded draws, and the folders of other people's files."""

import contextlib
import ctypes
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as training does

import pathlib
import signal
import tempfile

# Tests build the same small models again and again: JAX compiles each program once and then takes it from here.
_compiled = tempfile.TemporaryDirectory(prefix="compiled_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # by nohup, or a script's `&`: what tests send would stop nothing
        signal.signal(number, handler)

import keras
import pytest

# One CPU as two devices, for the tests of several; everything else runs on the first. Nothing is computed before it.
if keras.backend.backend() == "jax":
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(autouse=True, scope="module")
def freed_memory_is_given_back():
    """glibc keeps what compilers have freed: over the whole suite on TensorFlow several gigabytes."""
    yield
    with contextlib.suppress(AttributeError, OSError):  # of another C library
        ctypes.CDLL(None).malloc_trim(0)


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
