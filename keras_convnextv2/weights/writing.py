"""Write a model as another library's file, completely or not at all."""

import dataclasses
import json
import os
import pathlib

import keras
import numpy as np

from keras_convnextv2.layers.network import layers_in_front, variables_of
from keras_convnextv2.weights.library_configs import (
    CONV_LAYOUT,
    check_expressible,
    describe,
    huggingface_config,
    huggingface_preprocessor,
    timm_config,
)
from keras_convnextv2.weights.matching import expand, measure, some
from keras_convnextv2.weights.readers import ENDINGS, HUB_FILE
from keras_convnextv2.weights.rows import CONVERSIONS, COUNTER, ENCODER, OWN, TABLES, part_name, part_of
from keras_convnextv2.whole import write_whole

WRITTEN = {  # endings
    **{"timm": (".safetensors",), "huggingface": (".safetensors",)},
    **{"official": (".pt", ".pth"), "mmdetection": (".pth",)},
}
FOREIGN = (*ENDINGS, ".h5", ".npz", ".onnx", ".tar")  # endings that no folder is meant to have
MARKS = {"timm": "architecture", "huggingface": "model_type"}  # what only this library's config.json has
NORMED = ("timm", "timm conv", "huggingface", "huggingface model")  # whose networks always end in a norm
RUNNING = "running_mean"
IDENTITY = {"norm/gamma": np.ones, "norm/beta": np.zeros}  # a norm that only rescales to mean 0 and deviation 1


@dataclasses.dataclass(frozen=True, repr=False)
class SaveReport:
    """What `save_weights_as` did.

    Args:
        files: what was written, the weights first.
        format: the layout.
        arrays: how many arrays the weights file holds.
        left_out: {path of a variable: why it is not in the file}.
        added: {name in the file: why, though the model has no such variable}.
    """

    files: tuple
    format: str
    arrays: int
    left_out: dict
    added: dict

    def __repr__(self):
        lines = [f"{self.arrays} arrays written to {', '.join(map(repr, self.files))}, format {self.format!r}"]
        for title, names in (("left out", self.left_out), ("added", self.added)):
            for reason in dict.fromkeys(names.values()):
                group = [name for name, why in names.items() if why == reason]
                lines.append(f"  {title}: {some(group)} ({reason})")
        return "\n".join(lines)


def save_weights_as(model, path, format, *, class_names=None, verbose=0):
    """Write a model so that another library reads it, with the config files that this library expects.

    - "timm": a safetensors file for `timm.create_model("local-dir:FOLDER", pretrained=True)` or, by name,
      `timm.create_model(NAME, checkpoint_path=FILE)`. Atto to Nano get their layout of 1x1 convolutions; Tiny to
      Huge and sizes without a published name that of linear layers, the latter as a Tiny with other depths and dims.
    - "huggingface": for `AutoModelForImageClassification.from_pretrained(FOLDER)`, or `AutoModel` without a head, or
      `UperNetForSemanticSegmentation` of a `UPerNet`.
    - "official": a torch file as the authors' code has it: a classifier as `--eval` and fine-tuning read it, an
      encoder without norm and head as their released FCMAE files, an FCMAE with its decoder as their pre-training
      script does, which can resume it.

    - "mmdetection": the torch file of a `MaskRCNN` for its Mask R-CNN or Faster R-CNN on mmpretrain's ConvNeXt; other
      models are written as the backbone of one.

    timm and transformers have no FCMAE decoder, timm and the authors no UPerNet, and mmdetection alone has detectors:
    they get the encoder. timm's networks and transformers' always end in a norm: a model without one gets ones and
    zeros in its place. The report says both. Arrays are float32.

    The configs take picture size, mean and std from the model, the crop from the published networks of that picture
    size, and ImageNet's class names where there are 1000 classes.

    Args:
        model: a model of `ConvNeXtV2`, with or without top, an `FCMAE`, a `UPerNet` or a `MaskRCNN`.
        path: a folder, which gets model.safetensors, model.pt or model.pth; or a file, with the configs beside it.
            Hugging Face's file must be called model.safetensors.
        format: "timm", "huggingface", "official" or "mmdetection".
        class_names: of a classifier of one's own, in the order of its outputs, by default those that the model keeps;
            "huggingface" keeps them.
        verbose: 1 for a progress bar over the arrays.
    Returns:
        A `SaveReport`.
    Raises:
        ImportError: safetensors is missing, or for "official" torch.
        TypeError: not a Keras model, or no path.
        ValueError: an unknown format, a path that does not fit it or where another library's config stands, a model
            that is not of this package or that the other library cannot build, values that are not finite. Nothing is
            then written.
    Example:
        >>> keras_convnextv2.save_weights_as(model, "runs/for_timm", "timm")
    """
    if format not in WRITTEN:
        raise ValueError(f"format must be one of {', '.join(map(repr, WRITTEN))}. Received: {format!r}")
    if class_names is not None and format != "huggingface":
        raise ValueError(f"class_names are kept by 'huggingface' files. Received: format {format!r}")
    file = target(path, format)
    _check_config(file.with_name("config.json"), format)
    variables, front = _own_variables(model)
    size = measure(OWN, {path: tuple(v.shape) for path, v in variables.items()})
    table = layout(format, size, {part_of(path) for path in variables})
    wanted, left_out, added = _assign(table, size, variables, model.name)
    network = describe(model, size, class_names)
    check_expressible(network, format)
    save = _safetensors_writer(file) if file.suffix == ".safetensors" else _torch_writer(file, format)
    arrays = _arrays(wanted, size, variables, verbose)
    configs = _configs(format, network)
    writers = {file: lambda part: save(arrays, part)}
    for name, config in configs.items():
        writers[file.with_name(name)] = _json_writer(config)
    write_whole(writers)
    return SaveReport(tuple(map(str, writers)), table.name, len(arrays), {**left_out, **front}, added)


def layout(format, size, parts):
    """The table of rows in which a network with those parts is written."""
    if format == "timm":
        return TABLES["timm conv" if size.name in CONV_LAYOUT else "timm"]
    if format == "huggingface" and "decode_head" in parts:
        return TABLES["huggingface UPerNet"]
    if format == "huggingface":
        return TABLES["huggingface" if "head" in parts else "huggingface model"]
    if format == "mmdetection":
        return TABLES["mmdetection Mask R-CNN" if "box_head" in parts else "mmdetection"]
    if "decoder" in parts:
        return TABLES["official script"]
    return TABLES["official" if parts & {"norm", "head"} else "official FCMAE"]


def target(path, format):
    """The weights file for a path that is a folder or a file."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a folder or a file. Received: {path!r}")
    given, path = path, pathlib.Path(path).expanduser()
    fits = " or ".join(WRITTEN[format])
    if path.is_dir() or not path.name.endswith(FOREIGN):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{format!r} is written into a folder or a file that ends in {fits}. Received: {given!r}")
        return path / f"model{WRITTEN[format][0]}"
    if not path.name.endswith(WRITTEN[format]):
        raise ValueError(f"{format!r} is written into a folder or a file that ends in {fits}. Received: {given!r}")
    if format == "huggingface" and path.name != HUB_FILE:
        raise ValueError(
            f"transformers finds only a file that is called {HUB_FILE}. Received: {given!r}; give its folder"
        )
    return path


def _check_config(config, format):
    """Raises where another library's config.json stands: the weights beside it would lose theirs."""
    if format not in MARKS or not config.is_file():
        return
    try:
        held = dict(json.loads(config.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise _foreign(config, format, f"no JSON of named values ({error})") from error
    for name, mark in MARKS.items():
        if mark in held and MARKS[format] not in held:
            raise _foreign(config, format, f"one of {name!r}")


def _foreign(config, format, received):
    folder = str(config.parent / format)
    return ValueError(f"{str(config)!r} must be one of {format!r} or absent. Received: {received}; use {folder!r}")


def _own_variables(model):
    """({path: variable}, {path of one in front of the network: why it is left out}); what is behind has its path."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model, made by ConvNeXtV2 or an FCMAE. Received: {model!r}")
    variables = variables_of(model)
    front = {v.path: "it stands in front of the network" for layer in layers_in_front(model) for v in layer.weights}
    known = {id(v) for v in variables.values()}
    behind = {v.path: v for v in model.weights if id(v) not in known and v.path not in front}
    return {**behind, **variables}, front


def _assign(table, size, variables, name):
    """(Pairs, {path: why it is left out}, {their name: why it is added})."""
    parts = {part_of(path) for path in variables}
    whole = expand(table, size)
    held = {pair.part for pair in whole} | {ENCODER}
    normed = table.name in NORMED
    wanted = [pair for pair in whole if pair.part in parts or pair.part == "norm" and normed]
    added = {pair.theirs: "the model has no final norm" for pair in wanted if pair.part not in parts}
    left_out = {
        path: f"{table.name!r} files have no {part_name(part_of(path))}"
        for path in variables
        if part_of(path) not in held
    }
    expected = {pair.ours for pair in wanted if pair.theirs not in added}
    extra, lost = set(variables) - expected - set(left_out), expected - set(variables)
    if extra or lost or not size.depths:
        kinds = (("not expected", extra), ("missing", lost))
        found = "; ".join(f"{kind} {some(names)}" for kind, names in kinds if names)
        kinds = "models of ConvNeXtV2, FCMAE, UPerNet and MaskRCNN"
        raise ValueError(f"only {kinds} can be written. Received: {name!r}, with {found}")
    return wanted, left_out, added


def _arrays(wanted, size, variables, verbose):
    """{their name: array}; raises and names the variables that hold NaN or infinity."""
    progress = keras.utils.Progbar(len(wanted), unit_name="array") if verbose else None
    arrays, bad = {}, []
    for pair in wanted:
        if pair.ours in variables:
            ours = keras.ops.convert_to_numpy(variables[pair.ours]).astype("float32")
        else:
            ours = IDENTITY[pair.ours](size.dims[-1], "float32")
        if not np.isfinite(ours).all():
            bad.append(pair.ours)
        arrays[pair.theirs] = np.ascontiguousarray(CONVERSIONS[pair.conversion].inverse(ours))
        if pair.theirs.endswith(RUNNING):  # torch counts beside its batch norm what nothing depends on
            arrays[pair.theirs.replace(RUNNING, COUNTER)] = np.zeros((), "int64")
        if progress:
            progress.add(1)
    if bad:
        raise ValueError(f"a model to write must have finite values only. Received: others in {some(bad)}")
    return arrays


def _configs(format, network):
    if format == "timm":
        return {"config.json": timm_config(network)}
    if format == "huggingface":
        return {
            "config.json": huggingface_config(network),
            "preprocessor_config.json": huggingface_preprocessor(network),
        }
    return {}


def _json_writer(config):
    return lambda part: part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _safetensors_writer(file):
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise ImportError(f'{str(file)!r} needs safetensors: pip install "keras_convnextv2[weights]"') from error

    def save(arrays, part):
        part.touch()
        mode = part.stat().st_mode
        save_file(arrays, part, metadata={"format": "pt"})  # transformers asks for it
        part.chmod(mode)  # safetensors leaves a file that nobody else may read, such as a server

    return save


def _torch_writer(file, format):
    try:
        import torch
    except ImportError as error:
        raise ImportError(f'{str(file)!r} needs torch to be written: pip install "keras_convnextv2[torch]"') from error

    def save(arrays, part):
        held = {name: torch.from_numpy(array) for name, array in arrays.items()}
        with part.open("wb") as stream:
            torch.save({"state_dict": held, "meta": {}} if format == "mmdetection" else {"model": held}, stream)

    return save
