"""What evaluate, predict and probe share: their flags, the folder of their results, and what decides a number."""

import csv
import dataclasses
import sys

from absl import app, flags

from training.cluster import require_one_process
from training.command import asks_for_help, begin, exit_code, flag_lines, purpose, require_flags_only
from training.data.decode import check_channels
from training.data.sources import SPECS
from training.fields import help_texts, require, require_types, with_settings
from training.logs import Terminal
from training.program import spare_workers_the_program
from training.trained import KINDS, NO_CROP
from training.workdir import RECIPE, Workdir, read_record, versions

FLAGS = ("model", "data", "workdir", "explain", "set")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """How a trained model is shown pictures."""

    image_size: tuple[int, int] | None = None
    "height, width of the evaluation picture; none: that of the model"
    crop_fraction: float | None = NO_CROP
    "share of the resized picture in the centre crop; none: squashed; 0: that of the model"
    batch_size: int = 100
    "images at once"
    workers: int = 0
    "threads that prepare pictures; 0: one a core"
    jit: bool | None = None
    "let XLA compile the network; none: where it pays, which is on JAX and, with TensorFlow, not on CPUs"

    def __post_init__(self):
        require_types(self)
        require(self.batch_size >= 1, "batch_size must be at least 1", self.batch_size)
        require(self.workers >= 0, "workers must be at least 0", self.workers)
        low = min(self.image_size or (1,))
        require(low >= 1, "image_size must be at least 1", self.image_size)
        fraction = self.crop_fraction
        require(fraction is None or 0 <= fraction <= 1, "crop_fraction must be in [0, 1] or none", fraction)

    def sizes(self, trained):
        """The arguments of `evaluation_batches` that say what a picture becomes."""
        picture = {"image_size": trained.image_size, "crop_fraction": trained.crop_fraction}
        return {**picture, "batch_size": self.batch_size, "workers": self.workers}


class Results(Workdir):
    """The folder of what one of these programs measured; the program may come again and replaces it."""

    def __init__(self, path, program, config, model, data):
        super().__init__(path, program, config, data, resume=False)
        self._record = {"model": model, **self._record}

    def _check_free(self):
        if (self.path / RECIPE).exists():
            held, ours = read_record(self.path / RECIPE)["program"], self._record["program"]
            rule = f"--workdir must be a new folder, or one of an earlier {ours}"
            require(held == ours, rule, f"{self.path}, which holds a {held}", "Try another folder.")

    def write_table(self, name, header, rows):
        """A CSV file, whole; returns its path."""

        def writer(part):
            # a class may be a folder whose name is no UTF-8
            with open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                csv.writer(file).writerows([header, *rows])

        return self.write(name, writer)


def protocol(trained, config, data, **more):
    """What decides a number beside the code, for JSON: weights, data, picture, versions."""
    return {
        "model": trained.name,
        "weights": trained.fingerprint(),
        "data": data,
        **more,
        "image_size": list(trained.image_size),
        "crop_fraction": trained.crop_fraction,
        "batch_size": config.batch_size,
        "versions": versions(),
    }


def picture_in_words(trained):
    """How a picture is prepared."""
    size = " x ".join(map(str, trained.image_size))
    crop = trained.crop_fraction
    return f"{size} pixels, {'squashed' if crop is None else f'centre crop of {crop:.4g}'}"


def every_tenth(say, count, what):
    """(done) -> None, which says how far a pass over `count` pictures is, ten times at most."""
    said = [0]

    def done(pictures):
        if pictures * 10 // count > said[0] and pictures < count:
            said[0] = pictures * 10 // count
            say(f"{what}: {pictures:,} of {count:,} pictures", progress=True)

    return done


def check_model_channels(trained):
    """Raises for a model whose pictures cannot be read."""
    check_channels(trained.channels)


def define_flags(values=flags.FLAGS, takes=SPECS):
    """A new knob goes into a config, never here."""
    flags.DEFINE_string("model", None, f"{KINDS}.", flag_values=values)
    flags.DEFINE_string("data", None, f"{takes}.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder for the results.", flag_values=values)
    flags.DEFINE_bool("explain", False, "Print what --set can change, with help, and stop.", flag_values=values)
    flags.DEFINE_multi_string("set", [], "key=value: change one of these; repeatable.", flag_values=values)
    return values


def explain(config):
    """Each field with its value and help."""
    texts = help_texts(type(config))
    names = [field.name for field in dataclasses.fields(config)]
    return "\n".join(f"  {name} = {getattr(config, name)!r}  # {texts[name]}" for name in names)


def overview(config, values=flags.FLAGS):
    """What --help says: what the program is for, its flags, and what --set can change."""
    return "\n".join([purpose(), *flag_lines(FLAGS, values), "\nwhat --set can change:", explain(config)])


BEGINS_AGAIN = "The same command begins again"


def launch(kind, run, takes=SPECS, takes_files=False, go_on=BEGINS_AGAIN):
    """Runs the program `run(config, model, data, workdir, say)` as the flags say.

    Args:
        kind: the class of its config.
        takes: what --data takes, in words.
        takes_files: arguments that are no flags are pictures: `data` is then a list.
        go_on: what is said after a signal.
    """
    define_flags(takes=takes)
    if asks_for_help():
        print(overview(kind()))
        return
    spare_workers_the_program()
    app.run(lambda argv: sys.exit(main(argv, kind, run, takes, takes_files, go_on)))


def main(argv, kind, run, takes=SPECS, takes_files=False, go_on=BEGINS_AGAIN, values=flags.FLAGS):
    """The exit code."""
    return exit_code(lambda: _body(argv, kind, run, takes, takes_files, values), lambda: f"{go_on}.")


def _body(argv, kind, run, takes, takes_files, values):
    if not takes_files:
        require_flags_only(argv)
    config = with_settings(kind(), values.set)
    if values.explain:
        print(explain(config))
        return
    data = [*([values.data] if values.data else []), *argv[1:]]
    if not data:
        raise ValueError(f"--data must be {takes}. Received: none.")
    require_one_process(kind.__name__.lower())
    begin()
    run(config, values.model, data if takes_files else data[0], values.workdir, Terminal())
