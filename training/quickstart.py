"""The whole way on a drawn set of pictures, in some minutes on two cores: what pre-training is worth.

    python -m training.quickstart

FCMAE pre-training on unlabelled pictures, then a classifier from few labels twice, from the pre-trained weights and
from scratch: the same steps, data order and seeds, each arm with the learning rate that suits it. Stopped and called
again, it goes on where it was.
"""

import dataclasses
import itertools
import statistics
import sys
import time

import keras
import numpy as np
from absl import app, flags, logging

import keras_convnextv2 as kc
from keras_convnextv2 import visualize
from keras_convnextv2.whole import write_whole
from training import finetune, pretrain
from training.cluster import require_one_process
from training.command import begin, exit_code
from training.data import open_source
from training.fields import as_flags, command_line, require, with_settings
from training.logs import Terminal, duration
from training.recipes import RECIPES
from training.run import once
from training.workdir import folder_of

DATA = "shapes"
ARMS = {"pre-trained": "finetune_shapes", "from scratch": "scratch_shapes"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quickstart:
    """What can be changed with --set."""

    pretrain_steps: int = RECIPES["pretrain_shapes"].steps
    "updates of the pre-training"
    finetune_steps: int = RECIPES["finetune_shapes"].steps
    "updates of each fine-tuning, the same in both arms"
    seeds: int = 3
    "fine-tunings of each arm, each with other draws"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            require(getattr(self, field.name) >= 1, f"{field.name} must be at least 1", getattr(self, field.name))


def run(config, workdir, log):
    """Does it all and returns {"pre-training": results, arm: [results of each seed]}."""
    folder, start = folder_of(workdir), time.perf_counter()
    log(f"1/4 FCMAE pre-training on unlabelled pictures ({keras.backend.backend()} backend)")
    recipe = dataclasses.replace(RECIPES["pretrain_shapes"], steps=config.pretrain_steps)
    pretrained = once(pretrain.prepare, recipe, folder / "pretrained", DATA, log)
    done = {"pre-training": pretrained}
    for number, (arm, name) in enumerate(ARMS.items(), 2):
        log(f"{number}/4 a classifier from few labels, {arm}, {config.seeds} seeds")
        init = pretrained["folder"] if arm == "pre-trained" else None
        done[arm] = []
        for seed in range(config.seeds):
            recipe = dataclasses.replace(RECIPES[name], steps=config.finetune_steps, seed=seed, init=init)
            place = folder / f"{arm.replace(' ', '_')}_{seed}"
            done[arm].append(once(finetune.prepare, recipe, place, DATA, brief(log)))
            log(f"  seed {seed}: {done[arm][-1]['top_1']:.1f}% in {done[arm][-1]['seconds']:.0f} s")
    text = table(done)
    write_whole({folder / FILES["table"]: lambda part: part.write_text(text + "\n", encoding="utf-8")})
    log(f"\n{text}\n\n{remarks(done)}\n")
    log("4/4 pictures and exports")
    made = show_and_export(done, folder, log)
    log(f"everything is in {folder}:")
    for what, path in made.items():
        log(f"  {what:<16} {path}")
    log("\n".join(["", "next:", *(f"  {line}" for line in next_lines(pretrained["folder"]))]))
    log(f"took {duration(time.perf_counter() - start)}")
    return done


def next_lines(pretrained):
    """Commands to try with the folder of the pre-training."""
    own = ["--data", "folder:YOUR_PICTURES", "--workdir", "runs/mine"]
    again = ["--data", DATA, "--workdir", "runs/next", *as_flags({"init": pretrained})]
    return [
        command_line("pretrain", "--recipe", "pretrain_cifar", *own),
        command_line("finetune", "--recipe", "finetune_shapes", *again),
        command_line("finetune", "--recipe", "finetune_shapes", "--explain") + "  # every knob, with its help",
    ]


def brief(log, every=8):
    """Passes on one line of progress in `every`, and where a run goes on, indented."""
    lines = itertools.count(1)

    def say(text, progress=False):
        if text.startswith("resuming") or progress and next(lines) % every == 0:
            log(f"  {text}")

    return say


def show_and_export(done, folder, log):
    """The two pictures and the two exports: {what: path}."""
    made = {name: folder / file for name, file in FILES.items()}
    fcmae = pretrain.build(RECIPES["pretrain_shapes"])
    kc.load_weights(fcmae, done["pre-training"]["weights"])
    test = open_source(DATA, "test")
    pictures = np.stack([test.picture(i) for i in range(12)]).astype("float32")
    write_whole({made["reconstructions"]: lambda part: visualize.reconstruction_grid(fcmae, pictures[:8], path=part)})
    best = max(done["pre-trained"], key=lambda results: results["top_1"])
    classifier = keras.saving.load_model(best["model"])
    probabilities = classifier.predict(pictures, verbose=0)
    labels = [int(test.labels[i]) for i in range(12)]
    shown = (pictures, labels, probabilities, test.classes)
    write_whole({made["predictions"]: lambda part: visualize.prediction_grid(*shown, path=part)})
    write_whole({made["Keras model"]: classifier.save})
    try:
        kc.export_model(classifier, str(made["SavedModel"]), verbose=False)
    except ImportError as error:  # the other backends do without TensorFlow
        log(f"  no SavedModel: {error}")
        del made["SavedModel"]
    return made


FILES = {
    "reconstructions": "reconstructions.png",
    "predictions": "predictions.png",
    "Keras model": "classifier.keras",
    "SavedModel": "saved_model",
    "table": "table.txt",
}


def table(done):
    """Steps, losses, accuracy and seconds of the pre-training and of both arms."""
    lines = [f"{'':<14}{'steps':>8}{'first loss':>12}{'last loss':>11}{'top-1 %':>16}{'seconds':>12}"]
    pre = done["pre-training"]
    losses = f"{pre['first_loss']:>12.3f}{pre['loss']:>11.3f}"
    lines.append(f"{'pre-training':<14}{pre['steps']:>8}{losses}{'':>16}{pre['seconds']:>12.0f}")
    for arm in ARMS:
        runs = done[arm]
        first, last, seconds = (statistics.mean(r[key] for r in runs) for key in ("first_loss", "loss", "seconds"))
        top_1 = f"{mean_and_spread([r['top_1'] for r in runs]):>16}"
        lines.append(f"{arm:<14}{runs[0]['steps']:>8}{first:>12.3f}{last:>11.3f}{top_1}{seconds:>12.0f}")
    return "\n".join(lines)


def mean_and_spread(values):
    """Mean and, of two values or more, the sample standard deviation."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def remarks(done):
    """What the table says and what it does not."""
    recipes = {arm: RECIPES[name] for arm, name in ARMS.items()}
    rates = ", ".join(f"{arm} {r.peak_lr:g} with layer decay {r.layer_decay:g}" for arm, r in recipes.items())
    runs, classes = done["pre-trained"], len(done["pre-trained"][0]["classes"])
    gain = statistics.mean(r["top_1"] for r in runs) - statistics.mean(r["top_1"] for r in done["from scratch"])
    verdict = "more" if gain > 0 else "less: pre-training did not help here"
    return (
        f"With the same fine-tuning steps the pre-trained network reaches {abs(gain):.1f} points {verdict}\n"
        f"({runs[0]['test_images']:,} held-out pictures, chance {100 / classes:.0f}%, {len(runs)} fine-tunings of one "
        f"pre-training).\nIts {done['pre-training']['seconds']:.0f} s of pre-training are counted in neither arm: from "
        "scratch, as much time spent on\nmore steps helps too.\n"
        f"Each arm has the rate that suits it: {rates}."
    )


def main():
    """The exit code."""

    def body():
        require_one_process("quickstart")
        begin()
        run(with_settings(Quickstart(), flags.FLAGS.set), flags.FLAGS.workdir, Terminal())

    logging.set_verbosity(logging.WARNING)  # TensorFlow narrates every file that it exports
    return exit_code(body)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "runs/quickstart", "Folder for everything that is made.")
    flags.DEFINE_multi_string("set", [], "key=value: pretrain_steps, finetune_steps or seeds; repeatable.")
    app.run(lambda _: sys.exit(main()))
