"""Training programs for keras_convnextv2: run them from a checkout with `python -m training.NAME`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported: its notes on the CPU hide ours
