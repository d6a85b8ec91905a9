"""Pictures for training and evaluation: sources, augmentation, examples, and the pipeline that makes batches."""

from training.data.augmentation import Augmentation
from training.data.checking import require_readable
from training.data.decode import UnreadableImage
from training.data.examples import classification_example, pretraining_example
from training.data.picture_source import PictureSource, StreamSource, indices_per_class, take_per_class
from training.data.pipeline import evaluation_batches, training_batches
from training.data.sources import open_source

__all__ = [
    "Augmentation",
    "PictureSource",
    "StreamSource",
    "UnreadableImage",
    "classification_example",
    "evaluation_batches",
    "indices_per_class",
    "open_source",
    "pretraining_example",
    "require_readable",
    "take_per_class",
    "training_batches",
]
