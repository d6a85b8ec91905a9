"""Training programs for keras_convnextv2: run them from a checkout with `python -m training.NAME`."""
