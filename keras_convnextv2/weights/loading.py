"""Fill a model from a file or from another model, completely or not at all."""

import dataclasses
import os
import zipfile

import keras
import numpy as np

from keras_convnextv2.weights.hub import weights_file
from keras_convnextv2.weights.matching import measure, pair_up, recognise, some
from keras_convnextv2.weights.readers import Arrays, finite_or_raise, open_arrays
from keras_convnextv2.weights.rows import OWN, TRANSFORMS


@dataclasses.dataclass(frozen=True, repr=False)
class LoadReport:
    """What `load_weights` did.

    Args:
        source: the file, or the name of the model.
        format: the layout that was recognised.
        loaded: paths of the variables that were set.
        left_out: {name in the source: why it was not used}.
        untouched: {path of a variable: why it was left as it is}.
    """

    source: str
    format: str
    loaded: tuple
    left_out: dict
    untouched: dict

    def __repr__(self):
        lines = [f"{len(self.loaded)} variables set from {self.source!r}, format {self.format!r}"]
        for title, names in (("not used from it", self.left_out), ("left as they are", self.untouched)):
            for reason in dict.fromkeys(names.values()):
                group = [name for name, why in names.items() if why == reason]
                lines.append(f"  {title}: {', '.join(group)} ({reason})")
        return "\n".join(lines)


def load_weights(model, path, skip_head=False):
    """Fill a model from a file, completely or not at all.

    The layout is recognised from the names in the file: the authors' fine-tuned and FCMAE files, their pre-training
    script's, timm's, Hugging Face's and mmpretrain's, as .safetensors or as torch files (.pt, .pth, .bin); and
    Keras' own .weights.h5 and .keras. Every array must find its variable and every variable its array. Only whole
    parts may be missing on one side: a final norm, head or decoder that the model lacks is left out, and a file from
    pre-training, which has no norm and no head, leaves the model's alone. The report names them.

    Args:
        model: a model of `ConvNeXtV2`, with or without top, or an `FCMAE`.
        path: the file; or what is downloaded, the name of a preset (see `list_presets`; its size may be left out, and
            "imagenet" is `fcmae_ft_in1k`), "hf:owner/name" or "hf:owner/name/file". A .safetensors file needs the
            package safetensors, a torch file needs torch, on any backend.
        skip_head: leave the model's classifier as it is, whatever the file has.
    Returns:
        A `LoadReport`.
    Raises:
        FileNotFoundError: no such file, or no preset of that name, or no network to fetch it.
        ImportError: the package that reads this kind of file is missing.
        ValueError: the file is damaged, of an unknown layout, does not fit the model, or holds values that are not
            finite. The model is then as it was.
    Example:
        >>> model = keras_convnextv2.ConvNeXtV2Atto()
        >>> print(keras_convnextv2.load_weights(model, "convnextv2_atto_1k_224_ema.pt"))
    """
    given, size = str(path), measure(OWN, _shapes(model))
    path = weights_file(path, size.name or str(size), None if skip_head else size.classes)
    source = str(path) if os.path.isfile(os.path.expanduser(given)) else f"{given} ({path})"
    where = repr(source)
    if path.suffix == ".keras":
        return _from_model(model, _saved_model(path), where=where, source=source, skip_head=skip_head)
    with open_arrays(path) as arrays:
        table = recognise(arrays.shapes, where)
        return _fill(model, table, arrays, where=where, source=source, skip_head=skip_head)


def apply_weights(model, weights):
    """The `weights` argument of the constructors: what `load_weights` takes, or a model whose encoder is taken over.

    From a model the final norm comes along where it has one, and the head where it has as many classes; otherwise
    they stay at their initialisation.

    Args:
        model: the model to fill.
        weights: the path of a file, the name of a preset, "hf:owner/name", or a model of the same size: backbone,
            classifier or FCMAE.
    Returns:
        A `LoadReport`.
    """
    if isinstance(weights, keras.Model):
        classes = [measure(OWN, _shapes(m)).classes for m in (model, weights)]
        skip_head = classes[0] != classes[1]
        return _from_model(model, weights, where=f"model {weights.name!r}", source=weights.name, skip_head=skip_head)
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(f"weights must be None, a path, the name of a preset, or a keras.Model. Received: {weights!r}")
    return load_weights(model, weights)


def _from_model(model, other, *, where, source, skip_head):
    variables = _variables(other)
    arrays = Arrays(_shapes(other), lambda path: keras.ops.convert_to_numpy(variables[path]).astype("float32"))
    return _fill(model, OWN, arrays, where=where, source=source, skip_head=skip_head)


def _fill(model, table, arrays, *, where, source, skip_head):
    variables = _variables(model)
    plan = pair_up(table, arrays.shapes, _shapes(model), where=where, skip_head=skip_head)
    finite_or_raise(arrays, [name for name, _, _ in plan.pairs], where)
    for name, path, transform in plan.pairs:
        variables[path].assign(np.ascontiguousarray(TRANSFORMS[transform].forward(arrays.read(name))))
    return LoadReport(source, table.name, tuple(path for _, path, _ in plan.pairs), plan.left_out, plan.untouched)


def _variables(model):
    """{path: variable}; a model whose variables share a path cannot be addressed."""
    variables = {v.path: v for v in model.weights}
    if not variables:
        raise ValueError(f"model {model.name!r} has no variables yet: build it first")
    if len(variables) != len(model.weights):
        paths = [v.path for v in model.weights]
        twice = {path for path in paths if paths.count(path) > 1}
        raise ValueError(f"model {model.name!r} has several variables of one path: {some(twice)}")
    return variables


def _shapes(model):
    return {path: tuple(v.shape) for path, v in _variables(model).items()}


def _saved_model(path):
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{str(path)!r} is damaged or cut off (not a whole .keras archive)")
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no .keras file of this package ({_first_line(error)})") from error


def _first_line(error):
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
