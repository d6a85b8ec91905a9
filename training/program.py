"""The command line that the training programs share: six flags; every other knob is a field of the config."""

import dataclasses
import logging as python_logging
import sys

from absl import app, flags, logging

from keras_convnextv2 import keep_memory
from training.checkpoints import NotFinite
from training.data import open_source
from training.data.sources import SPECS
from training.fields import help_texts, with_settings
from training.logs import Terminal, duration
from training.loop import Stopped
from training.recipes import about, find_recipe
from training.run import run
from training.workdir import recorded


def define_flags(values=flags.FLAGS):
    """A new knob goes into a config, never here."""
    flags.DEFINE_string("recipe", None, "Name of the recipe.", flag_values=values)
    flags.DEFINE_string("data", None, f"{SPECS}.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_bool(
        "resume", False, "Go on with the run in --workdir, which knows its recipe and data.", flag_values=values
    )
    flags.DEFINE_bool("explain", False, "Print the resolved recipe with help, and stop.", flag_values=values)
    flags.DEFINE_multi_string("set", [], "key=value: change a field of the recipe; repeatable.", flag_values=values)
    return values


def explain(name, config, images=None, settings=()):
    """The resolved recipe, each value with its help, the numbers that follow from it, and where it comes from."""
    texts = help_texts(type(config))
    lines = [f"{name}: {type(config).__name__}"]
    for field in dataclasses.fields(config):
        lines.append(f"  {field.name} = {getattr(config, field.name)!r}  # {texts[field.name]}")
    lines += ["derived:", *(f"  {key} = {value}" for key, value in config.derived().items())]
    if images is None:
        lines.append("  steps: name the data with --data to see them")
    else:
        steps = {"epoch": config.epoch_steps, "warm-up": config.warmup_steps, "total": config.total_steps}
        lines += [f"  {key} steps = {count(images)}  # {images:,} images" for key, count in steps.items()]
    changed = "".join(f" --set {setting}" for setting in settings)
    program = f"python -m training.{type(config).__name__.lower()}"
    lines += [f"command: {program} --recipe {name} --data DATA --workdir FOLDER{changed}"]
    if changed:
        lines += ["what follows is of the recipe without the changes"]
    lines += [f"{key}: {value}" for key, value in dataclasses.asdict(about(name)).items()]
    return "\n".join(lines)


def launch(kind, prepare, split):
    """Runs the program of `prepare(config, data, say) -> Task` with the config of class `kind` that the flags describe.

    Args:
        split: of the data, whose pictures --explain counts.
    """
    define_flags()
    spare_workers_the_program()
    app.run(lambda argv: sys.exit(_main(argv, kind, prepare, split)))


def spare_workers_the_program():
    """Else each process that prepares pictures would import the program anew, and with it Keras: some hundred MB."""
    main = sys.modules["__main__"]
    main.__spec__ = None
    vars(main).pop("__file__", None)


def farewell(say, results):
    """Says where everything is and what to try next."""
    for key in ("model", "weights", "folder"):
        if key in results:
            say(f"{key:>8}: {results[key]}")
    say(f"    time: {duration(results['seconds'])}")
    say("next:")
    for line in results["next"]:
        say(f"  {line}")


def _chosen(values, kind):
    """(config, data) by the flags; with --resume and --workdir alone, those of the run in the folder."""
    if values.resume and values.workdir and not values.recipe:
        config, data = recorded(values.workdir, kind)
        return with_settings(config, values.set), values.data or data
    return with_settings(find_recipe(values.recipe, kind), values.set), values.data


def _main(argv, kind, prepare, split):
    values = flags.FLAGS
    try:
        if len(argv) > 1:
            raise ValueError(f"All arguments are flags. Received: {argv[1]!r}. Did you mean --data {argv[1]}?")
        config, data = _chosen(values, kind)
        if values.explain:
            source = open_source(data, split, channels=config.channels) if data else None
            print(explain(values.recipe, config, source and config.images_of(source), values.set))
            return 0
        if not data:
            raise ValueError(f"--data must be {SPECS}. Received: none. Try --data shapes.")
        if line := keep_memory():
            logging.info(line)
        python_logging.getLogger("jax").setLevel(python_logging.WARNING)  # it reports each kind of device it lacks
        say = Terminal()
        farewell(say, run(prepare, config, values.workdir, data, values.resume, say))
    except Stopped as stopped:
        print(f"\n{stopped}. Go on with --resume --workdir {values.workdir}", file=sys.stderr)
        return stopped.exit_code
    except (ValueError, OSError, ImportError, NotFinite) as error:  # bad input: one line; -v 1 shows where it came from
        logging.debug("traceback:", exc_info=True)
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    return 0
