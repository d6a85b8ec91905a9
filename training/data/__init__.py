"""Pictures for training and evaluation: sources, order, augmentation, and the pipeline that makes batches."""

from training.data.decode import UnreadableImage
from training.data.picture_source import PictureSource, StreamSource, take_per_class
from training.data.pipeline import as_numpy, evaluation_batches, iterate, training_batches
from training.data.sources import open_source

__all__ = [
    "PictureSource",
    "StreamSource",
    "UnreadableImage",
    "as_numpy",
    "evaluation_batches",
    "iterate",
    "open_source",
    "take_per_class",
    "training_batches",
]
