"""What the features of a frozen network are worth: linear probe and nearest neighbours, with all labels and with few.

    python -m training.probe --model runs/pretrained --data folder:PHOTOS --workdir runs/probe

The features are computed once and kept in the folder. `--set finetune=RECIPE` also fine-tunes the whole network with
the same few labels. It leaves results.json (with the protocol of each number) and results.csv.
"""

import dataclasses
import functools
import hashlib
import json
import statistics

import numpy as np

from keras_convnextv2.layers.network import network_layers, stages_of
from training import finetune
from training.checkpoints import DAMAGE
from training.configs import Finetune
from training.data import PictureSource, indices_per_class, require_readable
from training.data.folder import HELD_OUT
from training.evaluation.classification import ranks
from training.evaluation.features import features_of
from training.evaluation.linear import choose_l2, fit_linear, flat
from training.evaluation.neighbours import neighbour_votes
from training.fields import as_flags, command_line, require
from training.protocol import Look, Results, check_model_channels, every_tenth, launch, picture_in_words, protocol
from training.recipes import find_recipe
from training.run import once
from training.steps import make_predict
from training.trained import open_trained

HEADER = ("protocol", "labels_per_class", "labels", "seeds", "top_1", "top_1_spread", "top_5", "top_5_spread")
FINETUNE_HINT = "finetune_photos"  # the recipe of the command that is printed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Look):
    """What can be changed with --set."""

    shots: tuple[int, ...] = (1, 5, 10)
    "labels of each class in the runs with few labels; empty: none of these"
    seeds: int = 3
    "draws of those labels"
    seed: int = 0
    "the first of these draws; also of the part that the linear probe holds out"
    mirrored: bool = False
    "also train on the features of mirrored pictures"
    k: int = 20
    "neighbours that vote"
    temperature: float = 0.07
    "a neighbour's vote is exp(cosine / temperature)"
    batch_norm: bool = True
    "normalise each feature over the training set before the linear classifier, as MAE's linear probe does"
    l2: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    "weights of the linear classifier's regulariser to choose from, by a part of the training set"
    validation_share: float = 0.2
    "that part"
    validation_split: float = HELD_OUT
    "share that is held out for the test of a folder without train and test"
    download: bool = False
    "download and prepare tfds:NAME where it is not prepared"
    finetune: str | None = None
    "recipe for fine-tuning the whole network with the same few labels; none: not done, the command is printed"

    def __post_init__(self):
        super().__post_init__()
        for name in ("seeds", "k"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        require(all(n >= 1 for n in self.shots), "shots must be at least 1 each", self.shots)
        require(self.seed >= 0, "seed must be at least 0", self.seed)
        require(self.temperature > 0, "temperature must be positive", self.temperature)
        require(self.l2 and min(self.l2) > 0, "l2 must be one positive number or more", self.l2)
        for name in ("validation_share", "validation_split"):
            require(0 < getattr(self, name) < 1, f"{name} must be in (0, 1)", getattr(self, name))
        if self.finetune is not None:
            find_recipe(self.finetune, Finetune)


def run(config, model, data, workdir, say):
    """Measures and writes; returns what results.json holds."""
    folder = Results(workdir, "probe", config, model, data)
    trained = open_trained(model, config.image_size, config.crop_fraction)
    check_model_channels(trained)
    encoder, how = trained.encoder()
    options = {"validation_split": config.validation_split, "download": config.download}
    opening = Finetune(size="atto", channels=trained.channels, **options)
    sources = dict(zip(("train", "test"), finetune.open_labelled(opening, data, say), strict=True))
    classes = sources["train"].classes
    for source in sources.values():
        require_readable(source, say)
    counts = ", ".join(f"{source.count:,} to {split} on" for split, source in sources.items())
    say(f"{data}: {counts}; {picture_in_words(trained)}; {encoder.output_shape[-1]} features, {how}")
    rows = []
    with folder:
        features = functools.partial(_features, config, trained, encoder, how, data=data, folder=folder, say=say)
        train, test = (features(source=source, split=split) for split, source in sources.items())
        recipes = _recipes(config, trained, model, sources["train"], train[1])  # refused before anything is measured
        more = {"source": sources["train"].name, "test_images": sources["test"].count, "classes": list(classes)}
        about = protocol(trained, config, data, **more, features=how)
        results = {"results": rows, "protocol": about, "next": _next_lines(config, trained, model, data, classes)}
        measuring = measured(config, *train, *test, classes, sources["train"].name, say)
        for each in (measuring, _finetuned(recipes, config.finetune, data, classes, folder, say)):
            for row in each:
                rows.append(row)
                say(f"  {in_a_line(row)}")
            # once before fine-tuning, which may be stopped
            folder.write_table("results.csv", HEADER, [[row.get(key, "") for key in HEADER] for row in rows])
            folder.write_results(results)
    say(f"written: {folder.path}/ results.json results.csv")
    for line in results["next"]:
        say(f"next: {line}")
    return results


def measured(config, train, labels, test, test_labels, classes, whose, say):
    """The rows of linear probe and neighbours, with all labels and then with few."""
    every = np.arange(len(labels))
    for method in (_linear, _neighbours):
        yield _row(config, method, [every], train, labels, test, test_labels, classes, "all", config.seed)
    fewest = int(np.bincount(labels, minlength=len(classes)).min())
    for n in config.shots:
        if n > fewest:
            say(f"  {n} labels a class are left out: a class has {fewest} pictures")
            continue
        draws = [indices_per_class(labels, classes, n, config.seed + i, whose) for i in range(config.seeds)]
        for method in (_linear, _neighbours):
            yield _row(config, method, draws, train, labels, test, test_labels, classes, n, config.seed)


def _row(config, method, draws, train, labels, test, test_labels, classes, n, seed):
    """One number and what decides it: the mean over the draws of labels, and their standard deviation."""
    top_1, top_5, notes = [], [], []
    for i, draw in enumerate(draws):
        scores, name, settings, note = method(config, train[draw], labels[draw], test[:, 0], len(classes), seed + i)
        standing = ranks(scores, test_labels)
        top_1.append(100.0 * float(np.mean(standing == 0)))
        top_5.append(100.0 * float(np.mean(standing < 5)))
        notes.append(note)
    return _summary(name, n, len(draws[0]), {"top_1": top_1, "top_5": top_5}, {**settings, "each": notes})


def _summary(name, n, labels, numbers, settings):
    row = {"protocol": name, "labels_per_class": n, "labels": labels, "seeds": len(numbers["top_1"])}
    for key, values in numbers.items():
        row[key] = statistics.mean(values)
        row[f"{key}_spread"] = statistics.stdev(values) if len(values) > 1 else None
    return {**row, "numbers": numbers, "settings": settings}


def _linear(config, features, labels, test, classes, seed):
    choice = {"choices": config.l2, "share": config.validation_share, "seed": seed}
    shape = {"classes": classes, "batch_norm": config.batch_norm}
    l2, worth = choose_l2(features, labels, **choice, **shape)
    linear = fit_linear(*flat(features, labels), l2=l2, **shape)
    settings = {"batch_norm": config.batch_norm, "validation_share": config.validation_share, "optimizer": "L-BFGS"}
    told = {f"{choice:g}": top_1 for choice, top_1 in worth.items()}
    return linear(test), "linear probe", settings, {"l2": l2, "validation_top_1": told, "converged": linear.converged}


def _neighbours(config, features, labels, test, classes, seed):
    train, of_train = flat(features, labels)
    settings = {"k": min(config.k, len(train)), "temperature": config.temperature, "distance": "cosine"}
    votes = neighbour_votes(train, of_train, test, classes=classes, k=config.k, temperature=config.temperature)
    return votes, "k-nearest-neighbour", settings, {}


def in_a_line(row):
    """A row of the results for the terminal."""
    each = "all labels" if row["labels_per_class"] == "all" else f"{row['labels_per_class']} a class"
    words = [f"{row['protocol']:<20}", f"{each:<12}"]
    for key in ("top_1", "top_5"):
        if key in row:
            spread = row[f"{key}_spread"]
            words.append(f"{key} {row[key]:.2f}" + (f" +- {spread:.2f}" if spread is not None else ""))
    return "  ".join(words) + (f"  ({row['seeds']} seeds)" if row["seeds"] > 1 else "")


def _features(config, trained, encoder, how, source, split, data, folder, say):
    """(features (N, views, D), labels (N,)): those that the folder keeps of the same weights and data, else new ones.

    Pictures that were changed in their place are not noticed where their number stayed the same.
    """
    mirrored = config.mirrored and split == "train"
    share = config.validation_split
    facts = [data, split, source.count, list(source.classes), share, source.channels, mirrored, how]
    facts += [trained.fingerprint(), trained.image_size, trained.crop_fraction]
    name = f"features_{split}_{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]}.npz"
    if (folder.path / name).is_file():
        try:
            with open(folder.path / name, "rb") as file, np.load(file) as kept:
                say(f"features of {source.name}: those in {name}")
                return kept["features"], kept["labels"]
        except (OSError, *DAMAGE):
            say(f"{name} is damaged: its features are computed anew")
    predict = make_predict(encoder, jit=config.jit)
    done = every_tenth(say, source.count, f"features of {source.name}")
    features, labels = features_of(predict, source, mirrored=mirrored, done=done, **config.sizes(trained))
    folder.write(name, lambda part: np.savez(part, features=features, labels=labels))
    return features, labels


def _recipes(config, trained, model, source, labels):
    """{n: its configs, one a seed} of fine-tuning the whole network with n labels a class, where a recipe is given."""
    if config.finetune is None:
        return {}
    rule = "finetune needs pictures in any order, to take a few of each class"
    require(isinstance(source, PictureSource), rule, source.name, "Leave finetune out.")
    counts = np.bincount(labels, minlength=len(source.classes))
    seeds = range(config.seed, config.seed + config.seeds)
    return {
        n: [finetuning(config, trained, model, n, len(counts), seed) for seed in seeds]
        for n in config.shots
        if n <= counts.min()
    }


def _finetuned(recipes, name, data, classes, folder, say):
    """The rows of fine-tuning the whole network with few labels."""
    for n, configs in recipes.items():
        top_1 = []
        for recipe in configs:
            place = folder.path / f"finetuned_{n}_{recipe.seed}"
            results = once(finetune.prepare, recipe, place, data, _indented(say))
            top_1.append(results.get("top_1_average", results["top_1"]))
        weights = "the average of the last ones" if configs[0].ema else "the last ones"
        settings = {"recipe": name, "batch_size": configs[0].batch_size, "weights": weights}
        yield _summary("fine-tuning", n, n * len(classes), {"top_1": top_1}, settings)


def finetuning(config, trained, model, n, classes, seed):
    """The config of fine-tuning a trained network with n labels of each of so many classes."""
    recipe = find_recipe(config.finetune or FINETUNE_HINT, Finetune)
    changes = {**_network(trained), "init": model, "labels_per_class": n, "seed": seed, "choose": "last"}
    changes |= {"validation_split": config.validation_split, "evaluate_every": 0}
    batch = min(recipe.batch_size, n * classes)
    batch -= batch % 2 if recipe.mixes else 0  # they mix in pairs
    changes |= {"batch_size": batch, "accumulation": 1, "devices": 1, "classes": 0}  # those of the data
    return dataclasses.replace(recipe, **changes)


def _network(trained):
    """The fields of a config that describe its network and its evaluation picture."""
    stages = stages_of(trained.model)
    return {
        "depths": tuple(len(stage.drop_paths) for stage in stages),
        "dims": tuple(stage.dim for stage in stages),
        "stem_patch_size": network_layers(trained.model)["stem"].patch_size,
        "image_size": tuple(trained.image_size),
        "channels": trained.channels,
        "crop_fraction": trained.crop_fraction,
    }


def _indented(say):
    return lambda text, progress=False: say(f"    {text}", progress=progress)


def _next_lines(config, trained, model, data, classes):
    """The command that fine-tunes the whole network with few labels, where that was not done."""
    if config.finetune is not None or not config.shots:
        return []
    n = max(config.shots)
    recipe = find_recipe(FINETUNE_HINT, Finetune)
    wanted = finetuning(config, trained, model, n, len(classes), config.seed)
    changes = {name: value for name, value in vars(wanted).items() if value != getattr(recipe, name)}
    words = ["--recipe", FINETUNE_HINT, "--data", data, "--workdir", f"FOLDER_{n}"]
    return [command_line("finetune", *words, *as_flags(changes))]


if __name__ == "__main__":
    launch(Probe, run, go_on="The same command goes on")  # with the features that it kept
