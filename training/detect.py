"""Training of a Mask R-CNN, or Faster R-CNN, on photos with objects: detection and instance segmentation.

python -m training.detect --recipe detect_base --data folder:COCO --workdir runs/coco
"""

import dataclasses

import keras

import keras_convnextv2 as kc
from keras_convnextv2.detection.metrics import pycocotools
from keras_convnextv2.preprocessing import channel_statistics
from training.configs import Detect
from training.data import (
    DetectionAugmentation,
    open_objects,
    require_objects,
    say_held_out,
    say_lacking_classes,
    tiled,
)
from training.evaluation.detection import Finder, look_of, numbers, results
from training.fields import command_line
from training.finetune import require_kept_order, weights_of
from training.optimizers import detect_rules
from training.program import launch
from training.run import Task
from training.steps import make_predict

SPLIT = "train"


def build(config, classes, say):
    """The MaskRCNN of a config, with the weights of `config.init`; says what was taken from them.

    Args:
        classes: their names.
    """
    shape = {"input_shape": (None, None, config.channels), "stem_patch_size": config.stem_patch_size}
    mean, std = statistics(config)
    kinds = {"remat": config.remat, "dtype": config.dtype, "seed": config.seed, "mean": mean, "std": std}
    backbone = kc.ConvNeXtV2(*config.network, include_top=False, drop_path_rate=config.drop_path_rate, **shape, **kinds)
    own = ("masks", "fpn_dim", "rpn_dim", "box_dim", "mask_dim", "mask_convs", "proposals", "max_detections")
    own += ("soft_nms", "rpn_samples", "roi_samples", "seed")
    model = kc.MaskRCNN(backbone, classes, **{name: getattr(config, name) for name in own})
    if config.init is not None:
        report = kc.load_weights(model, weights_of(config.init), skip_head=not config.keep_head)
        require_kept_order(config, classes)
        say(repr(report))
    return model


def statistics(config):
    """(mean, std) of the pictures as fractions of 1."""
    given = ([value / 255 for value in values] or None for values in (config.mean, config.std))
    return channel_statistics(config.channels, *given)


def augmentation(config):
    """The DetectionAugmentation of a config; where a photo does not reach, the picture is 0 after normalisation."""
    return DetectionAugmentation(
        config.image_size,
        fill_of(config),
        scale=config.scale,
        resize=config.resize or None,
        keep_ratio=config.keep_ratio,
        flip=config.flip,
        distort=config.distort,
        most_objects=config.most_objects,
        mask_size=config.mask_size if config.masks else 0,
    )


def fill_of(config):
    return tuple(round(255 * value) for value in statistics(config)[0])


def open_sources(config, data):
    """(training source, test source) of photos with objects of the same classes."""
    options = {"channels": config.channels, "validation_split": config.validation_split}
    filters = {"filter_empty": config.filter_empty, "min_size": config.min_size}
    source = open_objects(data, SPLIT, classes=config.classes, **options, **filters)
    test = open_objects(data, "test", classes=source.classes, **options)
    if config.tile:
        options = {"fill": fill_of(config), "filter_empty": config.filter_empty}
        source = tiled(source, config.tile, config.gap, **options)
    return source, test


def sample_losses(model, batch):
    images = {name: batch[name] for name in ("images", "sizes")}
    targets = {name: rows for name, rows in batch.items() if name not in images}
    return model.sample_losses(images, targets, training=True)


def prepare(config, data, say, devices):
    pycocotools()  # else the first evaluation would end the run
    source, test = open_sources(config, data)
    devices.require_same_pictures(source, test)
    say_held_out(test, say)
    # of tiles the pictures: each is opened once
    require_objects(getattr(source, "whole", source), say, masks=config.masks)
    seen = require_objects(test, say, masks=config.masks)
    say_lacking_classes(test, seen, say, "object", "AP", "every box that is found is of it")
    model = build(config, source.classes, say)
    predict = make_predict(model, jit=config.jit, devices=devices)
    look = look_of(dataclasses.asdict(config))

    def evaluate(weights):
        # Every process looks at every photo: their sizes differ, and all processes must ask as often.
        found = results(Finder(model, predict, weights), test, look)
        return numbers(*found, source.classes, config.max_detections, config.plus_one)

    def save(folder):
        optimizer = keras.optimizers.AdamW(config.further_lr, weight_decay=config.weight_decay)
        model.compile(optimizer)  # so that `fit` goes on with it
        return {"model": folder.save_model(model)}

    def next_lines(results):
        words = ["--model", results["folder"], "--data", "PATH", "--workdir", f"{results['folder']}_seen"]
        return [
            command_line("predict", *words),
            f"import keras, keras_convnextv2 as kc; model = keras.models.load_model({results['model']!r})",
            "found = kc.detection.predict(model, picture)  # (H, W, C), 0..255 -> boxes, scores, classes, masks",
        ]

    return Task(
        model=model,
        rules=detect_rules(config.network[0], config.layer_decay, config.layer_decay_layers),
        sample_losses=sample_losses,
        source=source,
        example=augmentation(config),
        evaluate=evaluate,
        best=config.best,
        save=save,
        facts={"test_images": test.count, "classes": list(source.classes)},
        next_lines=next_lines,
    )


if __name__ == "__main__":
    launch(Detect, prepare, SPLIT, open_objects)
