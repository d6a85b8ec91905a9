"""What a classifier says about pictures: a table, and a contact sheet to look at.

    python -m training.predict --model runs/photos --data folder:PICTURES --workdir runs/predicted
    python -m training.predict --model runs/photos --workdir runs/predicted cat.jpg holiday/*.jpg

It leaves predictions.csv, contact_sheet.png and results.json. A picture that cannot be read has a row that says why.
Of a segmenter: a label map for each picture in labels/, overlays.png, and in the table the share of each class. Of a
detector: a row of the table for each detection, and detections.png.
"""

import dataclasses
import os

import numpy as np

from keras_convnextv2 import visualize
from training import detectors, segmenters
from training.data import PictureSource, UnreadableImage
from training.data.decode import SUFFIXES, as_array, lines_of, open_file, printable
from training.data.folder import pictures_in
from training.evaluation.classification import outputs_of
from training.fields import require
from training.protocol import Look, Results, check_model_channels, every_tenth, launch, picture_in_words, protocol
from training.steps import make_predict
from training.trained import open_trained

DATA = "folder:PATH, a folder, a picture or a text file with a path a line"
THUMBNAIL = 192  # pixels of its longer side
NAMED = 3  # unreadable pictures that are said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(Look):
    """What can be changed with --set."""

    top: int = 5
    "the most likely classes of each picture in the table"
    sheet: int = 48
    "pictures on the contact sheet, spread evenly over all; 0: no sheet"

    def __post_init__(self):
        super().__post_init__()
        require(self.top >= 1, "top must be at least 1", self.top)
        require(self.sheet >= 0, "sheet must be at least 0", self.sheet)


def run(config, model, data, workdir, say):
    """Predicts and writes; returns what results.json holds.

    Args:
        data: what --data takes, or a list of that.
    """
    data = [data] if isinstance(data, str) else list(data)
    files = [file for one in data for file in files_of(one)]
    folder = Results(workdir, "predict", config, model, " ".join(data))
    trained = open_trained(model, config.image_size, config.crop_fraction)
    check_model_channels(trained)
    if trained.segments:
        return segmenters.predict(config, folder, trained, data, files, say)
    if trained.detects:
        return detectors.predict(config, folder, trained, data, files, say)
    classifier = trained.classifier()
    say(f"{len(files):,} pictures, {picture_in_words(trained)}")
    probabilities, unreadable = _probabilities(config, trained, classifier, files, say)
    if len(unreadable) == len(files):
        raise UnreadableImage(f"none of the {len(files)} pictures can be read; the first one: {unreadable[0]}")
    names = trained.names or tuple(map(str, range(trained.outputs)))
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, : config.top]
    results = {"pictures": len(files), "unreadable": len(unreadable)}
    results["protocol"] = protocol(trained, config, data, classes=list(names))
    with folder:
        _write_table(folder, files, names, probabilities, best, unreadable)
        sheet = _write_sheet(config, trained, folder, files, names, probabilities, best, unreadable)
        folder.write_results(results)
    _report(say, files, names, probabilities, best, unreadable)
    say(f"written: {folder.path}/ predictions.csv {'contact_sheet.png ' * sheet}results.json")
    return results


def files_of(data):
    """The paths of the pictures that a text stands for: a folder, at any depth, a picture, or a list.

    Raises:
        FileNotFoundError: it stands for none.
    """
    path = os.path.expanduser(data.removeprefix("folder:"))
    if os.path.isdir(path):
        found = pictures_in(path)
        if not found:
            raise FileNotFoundError(f"no picture ({' '.join(SUFFIXES)}) in {data} or below it")
        return found
    if not os.path.isfile(path):
        raise FileNotFoundError(f"--data must be {DATA}. Received: {data!r}, which is not there")
    if not path.lower().endswith(".txt"):
        return [path]
    found = [os.path.expanduser(line) for line in lines_of(path) if not line.startswith("#")]
    if not found:
        raise FileNotFoundError(f"a list of pictures has a path a line. Received: {data!r}, which has none")
    return found


def _probabilities(config, trained, classifier, files, say):
    """((files, classes) float32, {number of a file that cannot be read: why})."""
    unreadable = {}

    def read(index):
        try:
            return open_file(files[index], trained.channels).array
        except UnreadableImage as error:
            unreadable[index] = str(error)
            return np.zeros((*trained.image_size, trained.channels), "uint8")

    source = PictureSource("the pictures", read, len(files), channels=trained.channels)
    done, found = every_tenth(say, len(files), "predicting"), []
    for scores, _ in outputs_of(make_predict(classifier, jit=config.jit), source, **config.sizes(trained)):
        found.append(scores if trained.probabilities else softmax(scores))
        done(sum(map(len, found)))
    return np.concatenate(found), dict(sorted(unreadable.items()))


def softmax(logits):
    """(B, classes) -> the same shape"""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _write_table(folder, files, names, probabilities, best, unreadable):
    count = best.shape[1]
    header = ["file", *(f"{what}_{k}" for k in range(1, count + 1) for what in ("class", "probability")), "error"]
    rows = []
    for number, (file, chosen, row) in enumerate(zip(files, best, probabilities, strict=True)):
        answers = [text for k in chosen for text in (names[k], f"{row[k]:.6f}")]
        bad = number in unreadable
        rows.append([printable(file), *([""] * len(answers) if bad else answers), unreadable.get(number, "")])
    folder.write_table("predictions.csv", header, rows)


def _write_sheet(config, trained, folder, files, names, probabilities, best, unreadable):
    """Whether there is one."""
    readable = [number for number in range(len(files)) if number not in unreadable]
    count = min(config.sheet, len(readable))
    chosen = [readable[k] for k in np.unique(np.linspace(0, len(readable) - 1, count).round().astype(int))]
    if chosen:
        captions = [_caption(files[n], names[best[n][0]], probabilities[n, best[n][0]]) for n in chosen]
        pictures = [_thumbnail(files[n], trained.channels) for n in chosen]
        draw = lambda part: visualize.contact_sheet(pictures, captions, part)  # noqa: E731
        folder.write("contact_sheet.png", draw)
    return bool(chosen)


def _caption(file, name, probability):
    return f"{name}\n{probability:.0%}\n{os.path.basename(printable(file))}"


def _thumbnail(file, channels):
    image = open_file(file, channels).image
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return as_array(image)


def _report(say, files, names, probabilities, best, unreadable):
    if len(files) <= 10:
        for number, file in enumerate(files):
            if number not in unreadable:
                answers = ", ".join(f"{names[k]} {probabilities[number, k]:.1%}" for k in best[number][:3])
                say(f"  {printable(file)}: {answers}")
    else:
        counts = np.bincount(best[[n for n in range(len(files)) if n not in unreadable], 0], minlength=len(names))
        most = np.argsort(-counts, kind="stable")[:10]
        say("  " + ", ".join(f"{names[k]} {counts[k]:,}" for k in most if counts[k]))
    for reason in list(unreadable.values())[:NAMED]:
        say(f"  {reason}")
    if len(unreadable) > NAMED:
        say(f"  and {len(unreadable) - NAMED} more that cannot be read: they have a row in the table")


if __name__ == "__main__":
    launch(Predict, run, f"{DATA}; arguments that are no flags are more of these", takes_files=True)
