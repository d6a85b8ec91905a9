"""Training programs for keras_convnextv2: run them from a checkout with `python -m training.NAME`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported: its notes on the CPU hide ours
# Read when torch is loaded. Its threads otherwise wait in a busy loop, which stops them all where cores are shared
# (measured on a busy machine: seven times the CPU time of a step).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
