"""What evaluate and predict do with a trained detector."""

import numpy as np

from keras_convnextv2 import detection, visualize
from keras_convnextv2.detection.metrics import pycocotools
from training.data import UnreadableImage, open_objects, require_objects, say_held_out
from training.data.decode import open_file, printable
from training.data.folder import HELD_OUT
from training.evaluation.detection import Finder, look_of, numbers, results, twelve
from training.protocol import every_tenth, protocol
from training.steps import make_predict

SHOWN = 4  # photos on the sheet
SPLITS = {"auto": "test", "test": "test", "val": "val", "train": "train"}
NAMED = 3
DEFAULTS = {"keep_ratio": True, "evaluation_resize": (), "tile": 0}  # for a model that no run of ours has written
COLUMNS = ("file", "class", "score", "x1", "y1", "x2", "y2")


def shown_as(trained):
    """How photos are shown, as in the evaluations of the run that trained the model."""
    recipe = DEFAULTS | trained.record.get("recipe", {})
    look = look_of(recipe)
    return look | {"size": tuple(look["size"]) if look["size"] else None}


def in_words(look):
    size = "as they are" if look["size"] is None else f"brought to {' x '.join(map(str, look['size']))}"
    return f"{size}, by tiles of {look['window']}" if look.get("window") else size


def evaluate(config, folder, trained, data, say):
    """Measures and writes; returns what results.json holds.

    Raises:
        ValueError: data without objects, classes that the model does not know.
        ImportError: without pycocotools.
    """
    if config.split not in SPLITS:
        raise ValueError(f"split of objects must be one of {', '.join(SPLITS)}. Received: {config.split!r}")
    pycocotools()  # else it would be missed after the last photo
    recipe, model, look = trained.record.get("recipe", {}), trained.model, shown_as(trained)
    names = list(trained.names or map(str, range(model.box_head.count)))
    share = config.validation_split or recipe.get("validation_split", HELD_OUT)
    options = {"channels": trained.channels, "classes": tuple(trained.names or ()), "validation_split": share}
    source = open_objects(data, SPLITS[config.split], **options)
    if len(source.classes) != len(names):
        rule = f"objects must be of the {len(names)} classes of the model"
        raise ValueError(f"{rule}. Received: {len(source.classes)} in {source.name}.")
    require_objects(source, say, masks=model.masks, lacking=True)
    say_held_out(source, say)
    say(f"{source.count:,} photos of {source.name}, {in_words(look)}; {len(names)} classes")
    finder = Finder(model, make_predict(model, jit=config.jit))
    truths, found = results(finder, source, look, every_tenth(say, source.count, "evaluating"))
    most, plus_one = model.max_detections, recipe.get("plus_one", False)
    measured = numbers(truths, found, names, most, plus_one)
    kinds = twelve(truths, found, names, most)
    facts = {"photos": source.count, "source": source.name, "classes": names, "max_detections": most, **look}
    written = {**measured, **{kind: _plain(values) for kind, values in kinds.items()}}
    written["protocol"] = protocol(trained, config, data, **facts)
    counts = np.bincount(np.concatenate([truth["classes"] for truth in truths]), minlength=len(names))
    rows = [
        [name, int(counts[n]), *(_percent(values["ap_per_class"][n]) for values in kinds.values())]
        for n, name in enumerate(names)
    ]
    shown = np.unique(np.linspace(0, source.count - 1, SHOWN).round().astype(int))
    opened = [source.opened(int(index)) for index in shown]
    pictures = [picture.array for picture, _ in opened]
    own = [
        {"boxes": objects.boxes, "classes": objects.classes, "masks": objects.masks(picture.size)}
        for picture, objects in opened
    ]
    drawn = [detection.predict(finder, picture, **look) for picture in pictures]
    with folder:
        folder.write_table("per_class.csv", ["class", "objects", *(f"{kind}_ap" for kind in kinds)], rows)
        folder.write("detections.png", lambda part: visualize.detections(pictures, drawn, names, own, part))
        folder.write_results(written)
    say("  ".join(f"{name} {value:.2f}" for name, value in measured.items()))
    for name, count, *values in rows:
        if count:
            say(f"  {' '.join(f'{value:>6}' for value in values)} {name}")
    say(f"written: {folder.path}/ results.json per_class.csv detections.png")
    return written


def _plain(values):
    """COCO's numbers for JSON: what is not defined is null."""
    each = {name: value for name, value in values.items() if name != "ap_per_class"}
    return {name: None if np.isnan(value) else float(value) for name, value in each.items()}


def _percent(value):
    return "" if np.isnan(value) else f"{100 * value:.2f}"


def predict(config, folder, trained, data, files, say):
    """Detections in pictures; returns what results.json holds."""
    look, rows, kept, unreadable = shown_as(trained), [], {}, {}
    names = list(trained.names or map(str, range(trained.model.box_head.count)))
    say(f"{len(files):,} pictures, {in_words(look)}")
    finder = Finder(trained.model, make_predict(trained.model, jit=config.jit))
    done, count = every_tenth(say, len(files), "predicting"), 0
    for number, file in enumerate(files):
        try:
            picture = open_file(file, trained.channels).array
        except UnreadableImage as error:
            unreadable[number] = str(error)
            rows.append([printable(file), *[""] * (len(COLUMNS) - 1), str(error)])
            continue
        shown = config.sheet and len(kept) < SHOWN
        found = detection.predict(finder, picture, **look, pasted=shown)  # only the sheet shows masks
        count += len(found["scores"])
        for box, score, kind in zip(found["boxes"], found["scores"], found["classes"], strict=True):
            rows.append([printable(file), names[kind], f"{score:.6f}", *(f"{side:.2f}" for side in box), ""])
        if shown:
            kept[number] = (picture, found)
        done(number + 1)
    if len(unreadable) == len(files):
        raise UnreadableImage(f"none of the {len(files)} pictures can be read; the first one: {unreadable[0]}")
    with folder:
        folder.write_table("detections.csv", [*COLUMNS, "error"], rows)
        if kept:
            pictures, found = zip(*kept.values(), strict=True)
            folder.write("detections.png", lambda part: visualize.detections(pictures, found, names, path=part))
        written = {"pictures": len(files), "unreadable": len(unreadable), "detections": count}
        written["protocol"] = protocol(trained, config, data, classes=names, **look)
        folder.write_results(written)
    for reason in list(unreadable.values())[:NAMED]:
        say(f"  {reason}")
    say(f"{count:,} detections; written: {folder.path}/ detections.csv {'detections.png ' * bool(kept)}results.json")
    return written
