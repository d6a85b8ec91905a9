"""Training of a UPerNet on photos with label maps: semantic segmentation.

python -m training.segment --recipe segment_tiny --data folder:ADEChallengeData2016 --workdir runs/ade
"""

import keras

import keras_convnextv2 as kc
from keras_convnextv2.preprocessing import channel_statistics
from training.configs import Segment
from training.data import (
    SegmentationAugmentation,
    open_maps,
    say_held_out,
    say_lacking_classes,
    segmentation_example,
)
from training.data.label_maps import IGNORE, require_maps
from training.evaluation.segmentation import agreement, numbers
from training.fields import require
from training.finetune import require_kept_order, weights_of
from training.optimizers import segment_rules
from training.program import launch
from training.run import Task
from training.steps import make_predict

SPLIT = "train"


def build(config, classes, say):
    """The UPerNet of a config, with the weights of `config.init`; says what was taken from them.

    Args:
        classes: their names.
    """
    shape = {"input_shape": (None, None, config.channels), "stem_patch_size": config.stem_patch_size}
    kinds = {"remat": config.remat, "dtype": config.dtype, "seed": config.seed}
    backbone = kc.ConvNeXtV2(*config.network, include_top=False, drop_path_rate=config.drop_path_rate, **shape, **kinds)
    model = kc.UPerNet(
        backbone,
        classes,
        channels=config.head_channels,
        auxiliary_channels=config.auxiliary_channels,
        dropout=config.dropout,
        synchronized=config.synchronized,
        ignore=IGNORE,
        average=config.average,
    )
    if config.init is not None:
        report = kc.load_weights(model, weights_of(config.init), skip_head=not config.keep_head)
        require_kept_order(config, classes)
        say(repr(report))
    return model


def augmentation(config):
    """The SegmentationAugmentation of a config; where a photo does not reach, the picture is 0 after normalisation."""
    mean, _ = channel_statistics(config.channels)
    return SegmentationAugmentation(
        config.image_size,
        tuple(round(255 * value) for value in mean),
        resize=config.resize or None,
        scale=config.scale,
        largest_share=config.largest_share,
        flip=config.flip,
        distort=config.distort,
    )


def open_sources(config, data):
    """(training source, test source) of photos with label maps of the same classes."""
    options = {"channels": config.channels, "classes": config.classes, "ignored": config.ignored}
    options["validation_split"] = config.validation_split
    source = open_maps(data, SPLIT, **options)
    test = open_maps(data, "test", **{**options, "classes": len(source.classes)})
    fits = config.classes in (0, len(source.classes))
    require(fits, f"classes must be {len(source.classes)}, those of {source.name}", config.classes)
    return source, test


def sample_losses(model, batch):
    return model.sample_losses(batch["images"], batch["labels"], training=True)


def prepare(config, data, say, devices):
    source, test = open_sources(config, data)
    devices.require_same_pictures(source, test)
    say_held_out(test, say)
    require_maps(source, say)
    say_lacking_classes(test, require_maps(test, say), say, "pixel", "mIoU", "every answer will be right")
    model = build(config, source.classes, say)
    predict = make_predict(model, jit=config.jit, devices=devices)
    look = {"window": None if config.whole else config.image_size, "resize": config.resize or None}

    def evaluate(weights):
        # Every process looks at every photo: their sizes differ, and all processes must ask as often.
        return numbers(agreement(predict, test, weights=weights, least_side=model.least_side, **look))

    def save(folder):
        optimizer = keras.optimizers.AdamW(config.further_lr, weight_decay=config.weight_decay)
        model.compile(optimizer)  # so that `fit` goes on with it
        return {"model": folder.save_model(model)}

    def next_lines(results):
        return [
            f"import keras, keras_convnextv2 as kc; model = keras.models.load_model({results['model']!r})",
            "labels = kc.segmentation.predict(model, picture)  # (H, W, C), 0..255 -> (H, W), as kc.class_names(model)",
        ]

    return Task(
        model=model,
        rules=segment_rules(len(config.network[0]), config.layer_decay, config.layer_decay_layers),
        sample_losses=sample_losses,
        source=source,
        example=segmentation_example(augmentation(config)),
        evaluate=evaluate,
        best="miou",
        save=save,
        facts={"test_images": test.count, "classes": list(source.classes)},
        next_lines=next_lines,
    )


if __name__ == "__main__":
    launch(Segment, prepare, SPLIT, open_maps)
