"""Training of a classifier, from pre-trained weights or from scratch.

python -m training.finetune --recipe finetune_cifar --data folder:PATH --workdir runs/fine --set init=runs/pretrain
"""

import pathlib

import keras
import numpy as np
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2.layers.network import network_layers
from keras_convnextv2.preprocessing import channel_statistics
from training.configs import Finetune
from training.data import (
    Augmentation,
    ColorJitter,
    Erasing,
    Mixing,
    PictureSource,
    RandAugment,
    classification_example,
    open_source,
    require_readable,
    say_held_out,
    say_lacking_classes,
    take_per_class,
)
from training.evaluation.classes import require_order
from training.evaluation.classification import top_1
from training.fields import require
from training.optimizers import finetune_rules
from training.program import launch
from training.run import Task
from training.steps import make_predict
from training.trained import names_in
from training.workdir import MODEL

SPLIT = "train"
NAMED = 5  # classes in an error


def build(config, classes, say):
    """(classifier, the same up to its logits), with the weights of `config.init`; says what was taken from them.

    Args:
        classes: their number or names.
    """
    shape = {"input_shape": (*config.image_size, config.channels), "stem_patch_size": config.stem_patch_size}
    kinds = {"remat": config.remat, "dtype": config.dtype, "seed": config.seed}
    head = {"classes": classes, "head_init_scale": config.head_init_scale}
    classifier = kc.ConvNeXtV2(*config.network, drop_path_rate=config.drop_path_rate, **head, **shape, **kinds)
    if config.init is not None:
        report = kc.load_weights(classifier, weights_of(config.init), skip_head=not config.keep_head)
        lost = config.keep_head and any(path.startswith("head/") for path in report.untouched)
        require(not lost, "keep_head needs weights with a head", config.init, "Leave keep_head out for a new head.")
        require_kept_order(config, classes)
        say(repr(report))
    return classifier, keras.Model(classifier.input, network_layers(classifier)["head"].output, name="logits")


def compiled(classifier, config):
    """The classifier, compiled so that `evaluate` and `fit` go on with it, at `further_lr`."""
    optimizer = keras.optimizers.AdamW(config.further_lr, weight_decay=config.weight_decay)
    classifier.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"])
    return classifier


def weights_of(init):
    """What `init` stands for: the model in the workdir of an ended run, or whatever `load_weights` takes."""
    path = pathlib.Path(init).expanduser()
    if path.is_dir() and not (path / MODEL).is_file():
        missing = f"{path / MODEL} is missing: has that run ended?"
        raise FileNotFoundError(f"init must be the workdir of an ended run or weights. Received: {init!r}; {missing}")
    return path / MODEL if path.is_dir() else init


def require_kept_order(config, classes):
    """Raises where the head of `init` that is kept has names, and others than the data's classes at its numbers.

    Args:
        classes: names of the data's classes, as many as the head has; their number has no order.
    """
    path = pathlib.Path(weights_of(config.init)).expanduser()
    if config.keep_head and not isinstance(classes, int) and path.suffix == ".keras":
        require_order(names_in(path), classes, of="the data", whose="the data; leave keep_head out for a new head")


def augmentation(config):
    """The Augmentation of a config; what it erases or moves in is noise or grey by the statistics of the model."""
    mean, std = channel_statistics(config.channels)
    change = ColorJitter(config.color_jitter) if config.color_jitter else None
    if config.randaugment is not None:
        change = RandAugment.parse(config.randaugment, fill=tuple(round(255 * value) for value in mean))
    erase = Erasing(config.erasing, mean, std) if config.erasing else None
    return Augmentation.of(config, change=change, erase=erase)


def smoothed_losses(smoothing):
    """(model, batch) -> (B,): cross-entropy in float32, with a share of the target spread over all classes.

    Of mixed images the rest of the target is `share` of the label and 1 - share of the partner's.
    """

    def sample_losses(model, batch):
        logits = ops.cast(model(batch["images"], training=True), "float32")  # (B, classes)
        log_probability = ops.log_softmax(logits, axis=-1)

        def of(labels):
            labels = ops.expand_dims(ops.cast(labels, "int32"), -1)
            return ops.squeeze(ops.take_along_axis(log_probability, labels, axis=-1), -1)

        of_labels = of(batch["labels"])
        if "share" in batch:
            share = ops.cast(batch["share"], "float32")
            of_labels = share * of_labels + (1.0 - share) * of(batch["partner_labels"])
        return -(1.0 - smoothing) * of_labels - smoothing * ops.mean(log_probability, axis=-1)

    return sample_losses


def open_labelled(config, data, say):
    """(training source, test source), whose classes fit each other and the config; says what is odd about them."""
    options = {"channels": config.channels, "validation_split": config.validation_split, "download": config.download}
    sources = [open_source(data, split, **options) for split in (SPLIT, "test")]
    classes, test_classes = (source.classes for source in sources)
    if classes != test_classes:
        raise ValueError(_differing(*sources))
    given = config.classes
    fits = given in (0, len(classes))
    require(fits, f"classes must be {len(classes)}, those of {sources[0].name}", given, "Leave it out to ask the data.")
    say_held_out(sources[1], say)
    known = isinstance(sources[1], PictureSource) and sources[1].labels is not None
    seen = np.unique(sources[1].labels) if known else range(len(classes))
    say_lacking_classes(sources[1], seen, say, "picture", "accuracy", "every answer will be right")
    if config.labels_per_class:
        sources[0] = take_per_class(sources[0], config.labels_per_class, config.seed)
    return sources


def _differing(source, test):
    """One line about training and test pictures of different classes, of which there may be thousands."""
    found = []
    for one, other in ((source, test), (test, source)):
        known = set(other.classes)
        alone = [name for name in one.classes if name not in known]
        named, more = ", ".join(alone[:NAMED]), len(alone) - NAMED
        only = f", {named}{f' and {more} more' * (more > 0)} only there" if alone else ""
        found.append(f"{len(one.classes)} in {one.name}{only}")
    return f"training and test pictures must have the same classes in the same order. Received: {'; '.join(found)}."


def prepare(config, data, say, devices):
    # the first one downloads and prepares
    source, test = devices.in_turn(lambda: open_labelled(config, data, say), config.download)
    devices.require_same_pictures(source, test)
    rule = f"batch_size must give each of {devices.processes} processes an even number of images for mixup and cutmix"
    require(not config.mixes or config.batch_size // devices.processes % 2 == 0, rule, config.batch_size)
    require_readable(test, say)
    classifier, logits = build(config, source.classes, say)
    predict = make_predict(logits, jit=config.jit, devices=devices)
    look = {"batch_size": config.evaluation_batch_size, "image_size": config.image_size, "workers": config.workers}
    look["devices"] = devices

    def evaluate(weights):
        return {"top_1": top_1(predict, test, **look, crop_fraction=config.crop_fraction, weights=weights)}

    def next_lines(results):
        return [
            f"import keras, keras_convnextv2 as kc; model = keras.models.load_model({results['model']!r})",
            "kc.decode_predictions(model.predict(images), class_names=kc.class_names(model))  # (N, H, W, C), 0..255",
        ]

    return Task(
        model=logits,
        rules=finetune_rules(config.network[0], config.layer_decay, config.layer_decay_type),
        sample_losses=smoothed_losses(config.label_smoothing),
        source=source,
        example=classification_example(augmentation(config)),
        mix=Mixing(mixup=config.mixup, cutmix=config.cutmix) if config.mixes else None,
        evaluate=evaluate,
        best="top_1",
        save=lambda folder: {"model": folder.save_model(compiled(classifier, config))},
        facts={"test_images": test.count, "classes": list(source.classes)},
        next_lines=next_lines,
    )


if __name__ == "__main__":
    launch(Finetune, prepare, SPLIT)
