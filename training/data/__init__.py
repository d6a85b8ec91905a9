"""Pictures for training and evaluation: sources, augmentation, examples, mixing, and the pipeline of batches."""

from training.data.augmentation import Augmentation, ColorJitter, Erasing
from training.data.checking import require_readable, say_held_out, say_lacking_classes
from training.data.decode import UnreadableImage
from training.data.detection import DetectionAugmentation
from training.data.examples import classification_example, pretraining_example, segmentation_example
from training.data.mixing import Mixing
from training.data.objects import Objects, require_objects
from training.data.picture_source import PictureSource, StreamSource, indices_per_class, take_per_class
from training.data.pipeline import evaluation_batches, training_batches
from training.data.randaugment import RandAugment
from training.data.segmentation import SegmentationAugmentation
from training.data.sources import open_maps, open_objects, open_source
from training.data.tiles import TiledSource, tiled

__all__ = [
    "Augmentation",
    "ColorJitter",
    "DetectionAugmentation",
    "Erasing",
    "Mixing",
    "Objects",
    "PictureSource",
    "RandAugment",
    "SegmentationAugmentation",
    "StreamSource",
    "TiledSource",
    "UnreadableImage",
    "classification_example",
    "evaluation_batches",
    "indices_per_class",
    "open_maps",
    "open_objects",
    "open_source",
    "pretraining_example",
    "require_objects",
    "require_readable",
    "say_held_out",
    "say_lacking_classes",
    "segmentation_example",
    "take_per_class",
    "tiled",
    "training_batches",
]
