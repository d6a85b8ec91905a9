"""Convert a file of weights into another library's.

    python -m keras_convnextv2.convert convnextv2_atto_1k_224_ema.pt served --format timm --verify
    python -m keras_convnextv2.convert convnextv2_tiny.fcmae_ft_in22k_in1k tiny.keras

The network is built from the file itself: a classifier, a backbone or an FCMAE of any depths and dims.
"""

import argparse
import functools
import os
import pathlib
import sys

import keras

from keras_convnextv2.backbone import ConvNeXtV2
from keras_convnextv2.convert.verifying import compare_answers, compare_bits
from keras_convnextv2.fcmae import FCMAE
from keras_convnextv2.layers.initial import drawing
from keras_convnextv2.layers.network import network_of
from keras_convnextv2.sizes import DEFAULT_SIDE
from keras_convnextv2.weights.hub import HUB, weights_file
from keras_convnextv2.weights.loading import load_recognised
from keras_convnextv2.weights.matching import known_names, measure, open_recognised, parts_in
from keras_convnextv2.weights.presets import list_presets
from keras_convnextv2.weights.readers import HUB_FILE
from keras_convnextv2.weights.rows import OWN, TABLES
from keras_convnextv2.weights.writing import MARKS, WRITTEN, SaveReport, save_weights_as, target
from keras_convnextv2.whole import write_weights, write_whole

KERAS = ("keras", "weights.h5")  # what Keras itself writes
FORMATS = (*WRITTEN, *KERAS)
FORMAT_OF = {**{f".{form}": form for form in KERAS}, **dict.fromkeys(WRITTEN["official"], "official")}


def main(arguments=None):
    """The command; returns its exit code: 0, 1 where --verify found a difference, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m keras_convnextv2.convert", description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="IN", help="a file of weights, the name of a preset, or hf:owner/name")
    parser.add_argument("out", metavar="OUT", help=f"a file ({', '.join(FORMAT_OF)}, .safetensors) or a folder")
    parser.add_argument("--format", choices=FORMATS, help="what to write, where the ending of OUT does not say it")
    parser.add_argument("--ema", action="store_true", help="read the moving average in a torch file")
    parser.add_argument("--verify", action="store_true", help="compare both files with the model, bits and answers")
    given = parser.parse_args(arguments)
    try:
        return _convert(given.source, given.out, given.format, given.ema, given.verify)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _convert(source, out, form, ema, verify):
    form = _form(out, form)
    file = pathlib.Path(out).expanduser() if form in KERAS else target(out, form)
    path = weights_file(source)
    if file.exists() and os.path.samefile(path, file):
        raise ValueError(f"IN and OUT must be two files. Received: {source!r} and {out!r}")
    with open_recognised(path, ema) as found:
        if path.suffix == ".keras":
            model = _saved_model(path)
        else:
            with drawing(False):  # all of its weights come from the file
                model = _network(found, source)
            print(load_recognised(model, found, str(path), verbose=1))
        if form in MARKS and not _preset(source) and None in network_of(model).input_shape[1:3]:
            print(f"picture size unknown: {DEFAULT_SIDE} written into the config")
        report = _write(model, file, form)
        print(_mapped(found, TABLES.get(report.format, OWN)))
        print(report)
        return _verify(model, found, path, ema, file) if verify else 0


def _form(out, form):
    """The format to write, from OUT's ending and --format."""
    said = next((kind for ending, kind in FORMAT_OF.items() if out.endswith(ending)), None)
    if form is None and said is None:
        choices = ", ".join(FORMATS)
        raise ValueError(
            f"--format ({choices}) must be given for an OUT without {', '.join(FORMAT_OF)}. Received: {out!r}"
        )
    if form and said and form != said:
        raise ValueError(f"--format must fit OUT, whose ending says {said}. Received: --format {form} for {out!r}")
    if form in KERAS and said is None:
        raise ValueError(f"--format {form} needs an OUT that ends in .{form}. Received: {out!r}")
    return form or said


def _saved_model(path):
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{str(path)!r} must be a .keras file of this package. Received: {first[:200]}") from error


def _network(found, source):
    """The model that a file is of; its weights are still to be loaded."""
    size, parts = measure(found.table, found.arrays.shapes), parts_in(found.table, found.arrays.shapes)
    if not size.depths or 0 in size.depths or None in size.dims:
        raise ValueError(f"{found.where} must hold a whole network. Received: one of {size}")
    preset = _preset(source)
    side = preset.input_size if preset and preset.classes else None  # a file does not tell: any size then
    patch, _, channels, _ = size.stem or (4, 4, 3, None)
    network = ConvNeXtV2(
        size.depths,
        size.dims,
        include_top="head" in parts,
        input_shape=(side, side, channels),
        pooling="avg" if "norm" in parts else None,
        classes=size.classes or 1,
        stem_patch_size=patch,
        name=f"convnextv2_{size.name}" if size.name else "convnextv2",
    )
    if "decoder" not in parts:
        return network
    return FCMAE(network, decoder_dim=size.decoder_dim or 1, decoder_depth=max(1, size.decoder_depth))


def _preset(source):
    """The published network that IN says it is: a name, a place on the hub, the authors' name of a file; else None."""
    name = source.removeprefix(HUB)
    file = os.path.basename(name)
    for preset in list_presets():
        named = name in (preset.name, preset.hub) or file == os.path.basename(preset.official)
        if named or name.startswith(f"{preset.hub}/"):
            return preset
    return None


def _write(model, file, form):
    if form not in KERAS:
        return save_weights_as(model, file, form, verbose=1)
    write_whole({file: model.save if form == "keras" else functools.partial(write_weights, model)})
    layout = "weights.h5 FCMAE" if form == "weights.h5" and isinstance(model, FCMAE) else form
    return SaveReport((str(file),), layout, len(model.weights), {}, {})


def _mapped(found, target_table):
    """One line a kind of parameter: its name in IN, here and in OUT, how many there are, the first one's shape."""
    table, shapes = found.table, found.arrays.shapes
    theirs = {row.ours: row.theirs for row in target_table.rows}
    kinds = {}
    for name, row, _ in known_names(table, shapes):
        kinds.setdefault(row, []).append(name)
    lines = [("IN", "here", "OUT", "arrays", "shape in IN")]
    for row in (row for row in table.rows if row in kinds):
        first = "x".join(map(str, shapes[kinds[row][0]]))
        lines.append((row.theirs, row.ours, theirs.get(row.ours, "left out"), str(len(kinds[row])), first))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _verify(model, found, path, ema, file):
    """Says what was compared; 1 where something differs, else 0."""
    # with its configs, where a library surely takes this file of the folder
    place = file.parent if file.name == HUB_FILE else file
    with open_recognised(file) as written:
        agreed = [_agrees("IN", model, found, path, ema), _agrees("OUT", model, written, place)]
    return 0 if all(agreed) else 1


def _agrees(label, model, found, place, ema=False):
    line, equal = compare_bits(model, found)
    print(f"{label}: {line}")
    line, agree = compare_answers(model, found.table.name, place, ema)
    print(f"{label}: {line}")
    return equal and agree is not False


if __name__ == "__main__":
    sys.exit(main())
