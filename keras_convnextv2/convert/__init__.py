"""From a file of weights to another library's: `python -m keras_convnextv2.convert`."""
