"""Accuracy of a classifier on labelled pictures: top-1, top-5, each class, and which class is taken for which.

    python -m training.evaluate --model runs/photos --data folder:PHOTOS --workdir runs/photos_evaluated

It leaves results.json (with the protocol), per_class.csv, confusion.csv and confusion.png. A segmenter is measured on
photos with label maps: mIoU, pixel accuracy and mean accuracy, and overlays.png shows some photos; a detector on photos
with objects: COCO's numbers and AP'07, and detections.png.
"""

import dataclasses

import numpy as np

from keras_convnextv2 import visualize
from training import detectors, segmenters
from training.data import open_source, require_readable, say_held_out
from training.data.folder import is_split
from training.evaluation.classes import match_classes
from training.evaluation.classification import accuracies, outputs_of, tally
from training.fields import require
from training.protocol import Look, Results, check_model_channels, every_tenth, launch, picture_in_words, protocol
from training.steps import make_predict
from training.trained import open_trained

SPLITS = ("auto", "test", "val", "train", "all")
LABELLED = ("auto", "test", "train", "all")  # of pictures with one class each
OTHERS = "another class"
NAMED = 3  # confusions that are said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Look):
    """What can be changed with --set."""

    split: str = "auto"
    "test, train, of objects val, or of a folder without them all; auto: test, but all of it for a published network"
    validation_split: float | None = None
    "share of a folder without train and test that is held out; none: as in the model's run, else 0.1"
    download: bool = False
    "download and prepare tfds:NAME where it is not prepared"
    restrict: bool = False
    "let the model choose among the classes of the data alone"

    def __post_init__(self):
        super().__post_init__()
        require(self.split in SPLITS, f"split must be one of {', '.join(SPLITS)}", self.split)
        held_out = self.validation_split
        require(held_out is None or 0 < held_out < 1, "validation_split must be in (0, 1) or none", held_out)


def run(config, model, data, workdir, say):
    """Measures and writes; returns what results.json holds."""
    folder = Results(workdir, "evaluate", config, model, data)
    trained = open_trained(model, config.image_size, config.crop_fraction)
    check_model_channels(trained)
    if trained.segments:
        return segmenters.evaluate(config, folder, trained, data, say)
    if trained.detects:
        return detectors.evaluate(config, folder, trained, data, say)
    classifier = trained.classifier()
    source = open_labelled(config, trained, data, say)
    known = {"ids": trained.ids, "whose": source.name, "outputs": trained.outputs}
    outputs, how = match_classes(source.classes, trained.names, **known)
    names = list(trained.names or source.classes)
    require_readable(source, say)
    say(f"{source.count:,} pictures of {source.name}, {picture_in_words(trained)}; classes {how}")
    batches = _scores(config, trained, classifier, source, say)
    if config.restrict:
        batches = ((scores[:, outputs], labels) for scores, labels in batches)
        names, outputs = [names[output] for output in outputs], tuple(range(len(outputs)))
    confusion, in_five = tally(batches, outputs, len(names))
    facts = {"images": int(confusion.sum()), "classes": len(source.classes), "outputs": len(names)}
    more = {"source": source.name, "matched": how, "restricted": config.restrict, **facts}
    results = {**accuracies(confusion, in_five, outputs), "protocol": protocol(trained, config, data, **more)}
    with folder:
        _write(folder, results, source.classes, names, outputs, confusion, in_five)
    _report(say, results, source.classes, names, outputs, confusion, folder)
    return results


def open_labelled(config, trained, data, say):
    """The source of the pictures to evaluate; says which part of the data it is."""
    require(config.split in LABELLED, f"split of labelled pictures must be one of {', '.join(LABELLED)}", config.split)
    kind, _, path = data.partition(":")
    share = config.validation_split
    if share is None and kind == "folder":
        share = trained.record.get("recipe", {}).get("validation_split")
    undivided = kind == "folder" and not is_split(path)
    split = config.split
    if split == "auto":
        split = "all" if undivided and trained.published else "test"
    options = {"channels": trained.channels, "validation_split": share, "download": config.download}
    source = open_source(data, split, **options)
    say_held_out(source, say)
    if undivided and split == "test":
        say("--set split=all takes every one, those that were trained on too")
    return source


def _scores(config, trained, classifier, source, say):
    done, seen = every_tenth(say, source.count, "evaluating"), 0
    predict = make_predict(classifier, jit=config.jit)
    for scores, labels in outputs_of(predict, source, **config.sizes(trained)):
        yield scores, labels
        done(seen := seen + len(labels))


def _write(folder, results, classes, names, outputs, confusion, in_five):
    images = confusion.sum(axis=1)
    right = confusion[np.arange(len(classes)), outputs]
    rows = [
        [name, n, *((f"{100 * k / n:.2f}" for k in (one, five)) if n else ("", ""))]
        for name, n, one, five in zip(classes, images, right, in_five, strict=True)
    ]
    folder.write_table("per_class.csv", ["class", "images", "top_1", "top_5"], rows)
    table, columns = ordered(names, outputs, confusion)
    rows = [[name, *row] for name, row in zip(classes, table.tolist(), strict=True)]
    folder.write_table("confusion.csv", ["class", *columns], rows)
    if len(columns) > len(classes):  # a picture has no room for answers outside of the data's classes, one by one
        own, others = np.split(table, [len(classes)], axis=1)
        table, columns = np.column_stack([own, others.sum(axis=1)]), [*columns[: len(classes)], OTHERS]
    draw = lambda part: visualize.confusion_matrix(table, list(classes), columns, path=part)  # noqa: E731
    folder.write("confusion.png", draw)
    folder.write_results(results)


def ordered(names, outputs, confusion):
    """The confusion with a column for each class in the order of the rows, then for other answers that were given."""
    others = [n for n in np.flatnonzero(confusion.sum(axis=0)).tolist() if n not in set(outputs)]
    order = [*outputs, *others]
    return confusion[:, order], [names[n] for n in order]


def _report(say, results, classes, names, outputs, confusion, folder):
    top_1, error, top_5 = (results[key] for key in ("top_1", "top_1_standard_error", "top_5"))
    say(f"top_1 {top_1:.2f} (standard error {error:.2f})  top_5 {top_5:.2f}")
    table, columns = ordered(names, outputs, confusion)
    for true, answer, count, images in visualize.confusions(table, list(classes), columns)[:NAMED]:
        say(f"  {count} of {images} {true} taken for {answer}")
    say(f"written: {folder.path}/ results.json per_class.csv confusion.csv confusion.png")


if __name__ == "__main__":
    launch(Evaluate, run)
