"""Training programs for keras_convnextv2: run them from a checkout with `python -m training.NAME`."""

import multiprocessing
import os

from training.quiet import quiet_grain, without_notes

# Read when torch is loaded. Its threads otherwise wait in a busy loop, which stops them all where cores are shared
# (measured on a busy machine: seven times the CPU time of a step).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

quiet_grain()

if multiprocessing.parent_process() is None:  # processes that prepare pictures do without Keras
    with without_notes():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow

            tensorflow.config.list_physical_devices()
