"""What evaluate and predict do with a trained segmenter."""

import itertools
import os
import pathlib

import numpy as np
from PIL import Image

from keras_convnextv2 import segmentation, visualize
from training.data import UnreadableImage, open_maps, say_held_out
from training.data.decode import open_file, printable
from training.data.folder import HELD_OUT
from training.data.label_maps import IGNORE, require_maps
from training.evaluation.classes import require_order
from training.evaluation.segmentation import Windows, agreement, numbers
from training.protocol import every_tenth, protocol
from training.steps import make_predict

SHOWN = 4  # photos on the sheet of overlays
SPLITS = {"auto": "test", "test": "test", "train": "train"}
NAMED = 3


def look_of(config, trained):
    """{"window", "resize"}: how photos are shown, as in the evaluations of the run that trained the model."""
    recipe = trained.record.get("recipe", {})
    fixed = None not in trained.model.backbone.input_shape[1:3]
    whole = recipe.get("whole", True) and config.image_size is None and not fixed
    resize = tuple(recipe.get("resize", ())) or None
    return {"window": None if whole else trained.image_size, "resize": resize}


def look_in_words(look):
    window = "as a whole" if look["window"] is None else f"by windows of {' x '.join(map(str, look['window']))}"
    return window if look["resize"] is None else f"{window}, brought below {look['resize']}"


def evaluate(config, folder, trained, data, say):
    """Measures and writes; returns what results.json holds.

    Raises:
        ValueError: data without label maps, another number of classes.
    """
    if config.split not in SPLITS:
        raise ValueError(f"split of label maps must be one of {', '.join(SPLITS)}. Received: {config.split!r}")
    recipe = trained.record.get("recipe", {})
    share = config.validation_split or recipe.get("validation_split", HELD_OUT)
    count = trained.model.decode_head.classifier.units
    options = {"classes": count, "ignored": tuple(recipe.get("ignored", (IGNORE,)))}
    source = open_maps(data, SPLITS[config.split], channels=trained.channels, validation_split=share, **options)
    if len(source.classes) != count:
        rule = f"label maps must have the {count} classes of the model"
        raise ValueError(f"{rule}. Received: {len(source.classes)} in {source.name}.")
    require_order(trained.names, source.classes, of="label maps", whose=source.name)
    require_maps(source, say)
    say_held_out(source, say)
    names, look = list(trained.names or source.classes), look_of(config, trained)
    say(f"{source.count:,} photos of {source.name}, {look_in_words(look)}; {len(names)} classes")
    predict = make_predict(trained.model, jit=config.jit)
    done, least = every_tenth(say, source.count, "evaluating"), trained.model.least_side
    matrix = agreement(predict, source, done=done, least_side=least, **look)
    found = matrix.result()
    facts = {"photos": source.count, "source": source.name, "classes": names, **look}
    results = {**numbers(matrix), "protocol": protocol(trained, config, data, **facts)}
    rows = [
        [
            name,
            int(pixels),
            *("" if np.isnan(x) else f"{100 * x:.2f}" for x in (iou, right / pixels if pixels else np.nan)),
        ]
        for name, pixels, iou, right in zip(
            names, matrix.counts.sum(1), found["iou"], np.diagonal(matrix.counts), strict=True
        )
    ]
    shown = np.unique(np.linspace(0, source.count - 1, SHOWN).round().astype(int))
    opened = [source.opened(int(index)) for index in shown]
    pictures = [picture.array for picture, _ in opened]
    truths = [labels.array(picture.size) for picture, labels in opened]
    maps = [_label_map(predict, picture, look, least) for picture in pictures]
    with folder:
        folder.write_table("per_class.csv", ["class", "pixels", "iou", "accuracy"], rows)
        table = [[name, *row] for name, row in zip(names, matrix.counts.tolist(), strict=True)]
        folder.write_table("confusion.csv", ["class", *names], table)
        folder.write("confusion.png", lambda part: visualize.confusion_matrix(matrix.counts, names, path=part))
        folder.write("overlays.png", lambda part: visualize.segmentation(pictures, maps, names, truths, part))
        folder.write_results(results)
    say("  ".join(f"{name} {results[name]:.2f}" for name in ("miou", "pixel_accuracy", "mean_accuracy")))
    for name, pixels, iou, _ in rows:
        if pixels:
            say(f"  {iou:>6} {name}")
    say(f"written: {folder.path}/ results.json per_class.csv confusion.csv confusion.png overlays.png")
    return results


def predict(config, folder, trained, data, files, say):
    """Label maps of pictures; returns what results.json holds."""
    look, found, unreadable = look_of(config, trained), {}, {}
    say(f"{len(files):,} pictures, {look_in_words(look)}")
    names = list(trained.names or map(str, range(trained.model.decode_head.classifier.units)))
    network, done = make_predict(trained.model, jit=config.jit), every_tenth(say, len(files), "predicting")
    places = _places(files)
    with folder:
        for number, file in enumerate(files):
            try:
                picture = open_file(file, trained.channels).array
            except UnreadableImage as error:
                unreadable[number] = str(error)
                continue
            labels = _label_map(network, picture, look, trained.model.least_side)
            found[number] = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
            (folder.path / places[number]).parent.mkdir(parents=True, exist_ok=True)
            folder.write(places[number], lambda part, labels=labels: Image.fromarray(labels).save(part, format="PNG"))
            done(number + 1)
        if not found:
            raise UnreadableImage(f"none of the {len(files)} pictures can be read; the first one: {unreadable[0]}")
        rows = [
            [printable(file), *(f"{share:.6f}" for share in found.get(n, ())), *[""] * (len(names) * (n in unreadable))]
            + [places[n] if n in found else "", unreadable.get(n, "")]
            for n, file in enumerate(files)
        ]
        folder.write_table("predictions.csv", ["file", *names, "label_map", "error"], rows)
        spread = np.linspace(0, len(found) - 1, min(config.sheet, SHOWN, len(found))).round().astype(int)
        sheet = [list(found)[place] for place in spread]
        if sheet:
            pictures = [open_file(files[n], trained.channels).array for n in sheet]
            maps = [np.asarray(Image.open(folder.path / places[n])) for n in sheet]
            folder.write("overlays.png", lambda part: visualize.segmentation(pictures, maps, names, path=part))
        results = {"pictures": len(files), "unreadable": len(unreadable)}
        results["protocol"] = protocol(trained, config, data, classes=names, **look)
        folder.write_results(results)
    for reason in list(unreadable.values())[:NAMED]:
        say(f"  {reason}")
    say(f"written: {folder.path}/ labels/ predictions.csv {'overlays.png ' * bool(sheet)}results.json")
    return results


def _label_map(network, picture, look, least_side):
    return segmentation.predict(Windows(network, None, least_side), picture, window=look["window"], size=look["resize"])


def _places(files):
    """labels/NAME.png of each file; of several of one name with a number."""
    places = {}
    for file in files:
        stem = pathlib.Path(printable(os.path.basename(file))).stem
        names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        places[next(place for name in names if (place := f"labels/{name}.png") not in places)] = file
    return list(places)
