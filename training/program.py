"""The command line that the training programs share: six flags; every other knob is a field of the config."""

import dataclasses
import sys

from absl import app, flags

from training import cost
from training.command import asks_for_help, begin, exit_code, flag_lines, purpose, require_flags_only
from training.configs import Detect, Finetune, Segment
from training.data import open_source
from training.data.sources import SPECS
from training.fields import command_line, help_texts, with_settings
from training.logs import Terminal, duration
from training.optimizers import detect_multipliers, layer_multipliers, stage_multipliers
from training.recipes import RECIPES, about, find_recipe
from training.run import run
from training.workdir import RECIPE, folder_of, recorded


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


def overview(kind, values=flags.FLAGS):
    """What --help says: what the program is for, our flags, and the recipes, each in a line."""
    names = ("recipe", "data", "workdir", "resume", "explain", "set")
    recipes = [name for name, recipe in RECIPES.items() if type(recipe) is kind]
    width = max(map(len, recipes))
    described = [(name, about(name)) for name in recipes]
    return "\n".join(
        [
            purpose(),
            *flag_lines(names, values, width - 2),
            "\nrecipes (--explain has every field of one):",
            *(f"  {name:{width}}  {it.expected} [{it.source}]" for name, it in described),
        ]
    )


def explain(name, config, images=None, settings=(), classes=None, data=None):
    """The resolved recipe, each value with its help, the numbers that follow from it, and where it comes from.

    Args:
        images, classes: of the data; None: those of the recipe's own set.
        settings: what was changed, as --set has it.
        data: what --data names; None: the recipe's own set.
    """
    texts, said = help_texts(type(config)), about(name)
    lines = [f"{name}: {type(config).__name__}"]
    for field in dataclasses.fields(config):
        lines.append(f"  {field.name} = {getattr(config, field.name)!r}  # {texts[field.name]}")
    lines += ["derived:", *(f"  {key} = {value}" for key, value in config.derived().items())]
    images = images or said.images
    if images:
        steps = {"epoch": config.epoch_steps, "warm-up": config.warmup_steps, "total": config.total_steps}
        lines += [f"  {key} steps = {count(images)}  # {images:,} images" for key, count in steps.items()]
    else:
        lines.append("  steps: name the data with --data to see them")
    lines += ["learning rate of each layer, at its peak:", *(f"  {row}" for row in rates(config))]
    needs = cost.described(config, images or None, _count_of_classes(config) or classes or said.classes)
    lines += ["needs, by calculation:", *(f"  {line}" for line in needs)]
    return "\n".join([*lines, *_provenance(name, config, said, settings, data)])


def _count_of_classes(config):
    """Those that a config states, 0 for none; a detector's are named."""
    stated = getattr(config, "classes", 0)
    return stated if isinstance(stated, int) else len(stated)


def rates(config):
    """Rows `place  rate  = peak * multiplier`, from the first layer to the last."""
    depths = config.network[0]
    if isinstance(config, Finetune):
        rows = layer_multipliers(depths, config.layer_decay, config.layer_decay_type)
    elif isinstance(config, Segment):
        rows = stage_multipliers(len(depths), config.layer_decay, config.layer_decay_layers)
    elif isinstance(config, Detect):
        rows = detect_multipliers(depths, config.layer_decay, config.layer_decay_layers)
    else:
        return [f"all layers  {config.peak_lr:.6g}"]
    width = max(len(place) for place, _ in rows)
    return [f"{place:{width}}  {config.peak_lr * factor:<12.6g}  = peak * {factor:.6g}" for place, factor in rows]


def _provenance(name, config, said, settings, data):
    own = said.data.split(",")[0].split(" ")[0]
    init = [f"init={said.init}"] if said.init and config.init is None else []
    changes = [word for setting in (*init, *settings) for word in ("--set", setting)]
    words = ["--recipe", name, "--data", data or own, "--workdir", "FOLDER", *changes]
    lines = [f"command: {command_line(_program(type(config)), *words)}"]
    other = ["without the changes"] * bool(settings) + ["on its own data"] * (data not in (None, own))
    if other:
        lines += [f"what follows is of the recipe {', '.join(other)}"]
    lines += [f"{key}: {getattr(said, key)}" for key in ("data", "source", "hardware", "expected")]
    return lines + [f"note: {note}" for note in said.notes]


def launch(kind, prepare, split, opened=open_source):
    """Runs the program of `prepare(config, data, say, devices) -> Task` with the config that the flags describe.

    Args:
        kind: the class of the config.
        split: of the data, whose pictures --explain counts.
        opened: (data, split, channels=) -> the source of these pictures.
    """
    define_flags()
    if asks_for_help():
        print(overview(kind))
        return
    spare_workers_the_program()
    app.run(lambda argv: sys.exit(_main(argv, kind, prepare, split, opened)))


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


def _main(argv, kind, prepare, split, opened=open_source):
    values = flags.FLAGS
    return exit_code(lambda: _body(argv, values, kind, prepare, split, opened), lambda: _go_on(values, kind))


def _go_on(values, kind):
    """What is said after a signal: a command needs a run in the folder, and one that resumes may have changed it."""
    if values.resume:
        return "The same command goes on."
    if not (values.workdir and (folder_of(values.workdir) / RECIPE).is_file()):
        return "The same command begins again."
    return f"Go on with: {command_line(_program(kind), '--resume', '--workdir', values.workdir)}"


def _program(kind):
    """The program that takes configs of a class."""
    return kind.__name__.lower()


def _body(argv, values, kind, prepare, split, opened):
    require_flags_only(argv)
    if values.explain and not values.recipe:
        raise ValueError("--explain needs a --recipe. Received: none.")
    config, data = _chosen(values, kind)
    if values.explain:
        source = opened(data, split, channels=config.channels) if data else None
        images, classes = source and config.images_of(source), source and len(source.classes)
        print(explain(values.recipe, config, images, values.set, classes, data))
        return
    if not data:
        raise ValueError(f"--data must be {SPECS}. Received: none. Try --data shapes.")
    begin()
    say = Terminal()
    if results := run(prepare, config, values.workdir, data, values.resume, say):
        farewell(say, results)
