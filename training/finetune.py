"""Training of a classifier, from pre-trained weights or from scratch.

python -m training.finetune --recipe finetune_cifar --data folder:PATH --workdir runs/fine --set init=runs/pretrain
"""

import dataclasses
import pathlib

import keras
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2.layers.network import network_layers
from training.configs import Finetune, require
from training.data import open_source, take_per_class
from training.optimizers import finetune_rules
from training.program import launch
from training.recipes import require_parts
from training.session import Session, farewell, top_1
from training.steps import make_predict
from training.workdir import MODEL, Workdir

SPLIT = "train"
# Fields that leave the compiled functions as they are, so that runs which differ in nothing else can share them.
NOT_COMPILED = ("seed", "init", "keep_head", "labels_per_class", "head_init_scale", "steps", "epochs", "warmup_epochs")
NOT_COMPILED += ("base_lr", "min_lr", "log_every", "evaluate_every", "keep_checkpoints", "max_bad_steps")


def build(config, classes, say=None):
    """(classifier, the same up to its logits), with the weights of `config.init`; says what was taken from them."""
    shape = {"input_shape": (*config.image_size, config.channels), "stem_patch_size": config.stem_patch_size}
    kinds = {"remat": config.remat, "dtype": config.dtype, "seed": config.seed}
    head = {"classes": classes, "head_init_scale": config.head_init_scale}
    classifier = kc.ConvNeXtV2(*config.network, drop_path_rate=config.drop_path_rate, **head, **shape, **kinds)
    if config.init is not None:
        report = kc.load_weights(classifier, weight_file(config.init), skip_head=not config.keep_head)
        lost = config.keep_head and any(path.startswith("head/") for path in report.untouched)
        require(not lost, "keep_head needs weights with a head", config.init, "Leave keep_head out for a new head.")
        if say is not None:
            say(repr(report))
    return classifier, keras.Model(classifier.input, network_layers(classifier)["head"].output, name="logits")


def weight_file(init):
    """The file that `init` stands for: itself, or the model in a workdir."""
    path = pathlib.Path(init)
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        missing = f"{file} is missing: has that run ended?" if path.is_dir() else "there is no such file."
        rule = "init must be the workdir of an ended run or a weight file"
        raise FileNotFoundError(f"{rule}. Received: {init!r}; {missing}")
    return file


def smoothed_losses(smoothing):
    """(model, batch) -> (B,): cross-entropy in float32, with a share of the target spread over all classes."""

    def sample_losses(model, batch):
        logits = ops.cast(model(batch["images"], training=True), "float32")  # (B, classes)
        log_probability = ops.log_softmax(logits, axis=-1)
        labels = ops.expand_dims(ops.cast(batch["labels"], "int32"), -1)
        of_label = ops.squeeze(ops.take_along_axis(log_probability, labels, axis=-1), -1)
        return -(1.0 - smoothing) * of_label - smoothing * ops.mean(log_probability, axis=-1)

    return sample_losses


def compiled_key(config, classes):
    """What decides the compiled functions of a run."""
    values = dataclasses.asdict(config)
    return (classes, *((name, value) for name, value in values.items() if name not in NOT_COMPILED))


def open_labelled(config, data):
    """(training source, test source), whose classes fit each other and the config."""
    sources = [open_source(data, split, channels=config.channels) for split in (SPLIT, "test")]
    classes, test_classes = (source.classes for source in sources)
    require(classes == test_classes, f"training and test pictures must have the same classes {classes}", test_classes)
    given = config.classes
    fits = given in (0, len(classes))
    require(fits, f"classes must be {len(classes)}, those of {sources[0].name}", given, "Leave it out to ask the data.")
    if config.labels_per_class:
        sources[0] = take_per_class(sources[0], config.labels_per_class, config.seed)
    return sources


def run(config, workdir, data, resume=False, log=print, compiled=None):
    """Trains and returns results: folder, model, top_1, top_1_average, steps, loss, first_loss, seconds, losses.

    `compiled`, a dict, lets several runs in one process share what they compile (seeds, budgets, with or without
    pre-training); each still starts from its own weights.
    """
    require_parts(config)
    folder = Workdir(workdir, "finetune", config, data, resume)
    source, test = open_labelled(config, data)
    keras.utils.set_random_seed(config.seed)
    compiled = {} if compiled is None else compiled
    key = compiled_key(config, len(source.classes))
    classifier, logits = build(config, len(source.classes), log)
    if key in compiled:
        fresh = logits
        classifier, logits, predict, step = compiled[key]
        for variable, start in zip(logits.variables, fresh.variables, strict=True):
            variable.assign(ops.convert_to_numpy(start))
    else:
        predict, step = make_predict(logits, jit=config.jit), None
    look = {"batch_size": config.evaluation_batch_size, "image_size": config.image_size}
    look |= {"source": test, "crop_fraction": config.crop_fraction}

    def evaluate(step):
        numbers = {"top_1": top_1(predict, **look)}
        if step.average:
            numbers["top_1_average"] = top_1(predict, weights=step.average, **look)
        return numbers

    rules = finetune_rules(config.network[0], config.layer_decay, config.layer_decay_type)
    config.epoch_steps(source.count)  # refuses too large a batch before the folder is taken
    path = folder.open()
    kinds = {"ema": config.ema, "resume": resume, "say": log}
    losses = smoothed_losses(config.label_smoothing)
    session = Session(config, folder, source, logits, rules, losses, evaluate=evaluate, step=step, **kinds)
    compiled[key] = (classifier, logits, predict, session.step)
    log(session.describe())
    results = session.run()
    if average := session.step.average:  # it is what gets saved, as in the published files
        for variable, value in zip(logits.trainable_variables, average, strict=True):
            variable.assign(value)
    results |= {"test_images": test.count, "classes": list(source.classes)}
    results |= {"folder": str(path), "model": str(folder.save_model(classifier))}
    folder.write_results(results)
    average = f" (average of weights: {results['top_1_average']:.2f}%)" if "top_1_average" in results else ""
    log(f"top-1 {results['top_1']:.2f}%{average} on {test.count:,} images of {test.name}")
    farewell(
        log,
        results,
        [
            f"import keras, keras_convnextv2; model = keras.models.load_model({results['model']!r})",
            "model.predict(images)  # (N, H, W, C), 0..255",
            f"tensorboard --logdir {path / 'tensorboard'}",
        ],
    )
    return results


if __name__ == "__main__":
    launch(Finetune, run, SPLIT)
