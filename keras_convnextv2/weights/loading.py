"""Fill a model from a file or from another model, completely or not at all."""

import dataclasses
import os
import warnings

import keras

from keras_convnextv2.layers.network import variables_of
from keras_convnextv2.preprocessing import channel_statistics
from keras_convnextv2.weights.channels import adapted_stem, how_adapted, statistics
from keras_convnextv2.weights.hub import weights_file
from keras_convnextv2.weights.matching import STEM, measure, open_recognised, pair_up
from keras_convnextv2.weights.readers import Arrays, finite_or_raise, numbers_or_raise
from keras_convnextv2.weights.rows import CONVERSIONS, OWN

LISTED = 20  # names of a kind in a printed report; all of them are in its fields


@dataclasses.dataclass(frozen=True, repr=False)
class LoadReport:
    """What `load_weights` did.

    Args:
        source: the file, or the name of the model.
        format: the layout that was recognised.
        loaded: paths of the variables that were set.
        left_out: {name in the source: why it was not used}.
        untouched: {path of a variable: why it was left as it is}.
        adapted: {path of a variable that was set: what was done to it}; the stem, where the channels differ.
        prefix: what a wrapper had put before every name of the source; it was taken off.
    """

    source: str
    format: str
    loaded: tuple
    left_out: dict
    untouched: dict
    adapted: dict = dataclasses.field(default_factory=dict)
    prefix: str = ""

    def __repr__(self):
        lines = [f"{len(self.loaded)} variables set from {self.source!r}, format {self.format!r}"]
        if self.prefix:
            lines.append(f"  taken off every name: {self.prefix!r}")
        groups = {"adapted": self.adapted, "not used from it": self.left_out, "left as they are": self.untouched}
        for title, names in groups.items():
            for reason in dict.fromkeys(names.values()):
                group = [name for name, why in names.items() if why == reason]
                more = f" and {len(group) - LISTED} more" if len(group) > LISTED else ""
                lines.append(f"  {title}: {', '.join(group[:LISTED])}{more} ({reason})")
        return "\n".join(lines)


def load_weights(model, path, skip_head=False, *, ema=False, verbose=0):
    """Fill a model from a file, completely or not at all.

    The layout is recognised from the names in the file: the authors' fine-tuned and FCMAE files, their pre-training
    script's, timm's, Hugging Face's, mmpretrain's, mmdetection's and mmsegmentation's, as .safetensors or as torch
    files (.pt, .pth, .bin); and Keras' own .weights.h5 and .keras. Every array must find its variable and every
    variable its array. Only whole parts may be missing on one side: a final norm, head or decoder that the model lacks
    is left out, and so is the norm behind each stage that detectors and segmenters have (`pyramid(model, norm=True)`
    takes them) and their other parts, but those of mmsegmentation's and transformers' UPerNet, which a `UPerNet` takes,
    and of mmdetection's Mask R-CNN and Faster R-CNN, which a `MaskRCNN` takes; a file from pre-training, which has no
    norm and no head, leaves the model's alone. The report names them.

    The stem is adapted to a model of other channels, with a warning: to one, its kernel is the sum over the file's
    channels, so that a grey picture gives what its three equal channels gave; to several, the file's channels repeated
    in turn and rescaled. A decoder, which predicts pixels, is then left alone.

    Args:
        model: a model of `ConvNeXtV2`, with or without top, an `FCMAE`, a `UPerNet` or a `MaskRCNN`.
        path: the file; or what is downloaded, the name of a preset (see `list_presets`; its size may be left out, and
            "imagenet" is `fcmae_ft_in1k`), "hf:owner/name" or "hf:owner/name/file". A .safetensors file needs the
            package safetensors, a torch file needs torch, on any backend.
        skip_head: leave the model's classifier as it is, whatever the file has.
        ema: read the moving average that a training script has written into a torch file beside the weights.
        verbose: 1 shows a progress bar.
    Returns:
        A `LoadReport`.
    Raises:
        TypeError: no path.
        FileNotFoundError: no such file, or no preset of that name, or no network to fetch it.
        ImportError: the package that reads this kind of file is missing.
        ValueError: the file is damaged, of an unknown layout, does not fit the model, or holds values that are not
            finite. The model is then as it was.
    Example:
        >>> model = keras_convnextv2.ConvNeXtV2Atto()
        >>> print(keras_convnextv2.load_weights(model, "convnextv2_atto_1k_224_ema.pt"))
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a file, the name of a preset or hf:owner/name. Received: {path!r}")
    return _from_file(model, path, bool(skip_head), ema=ema, verbose=verbose)


def _from_file(model, path, skip_head, *, ema=False, verbose=0):
    """`load_weights`; `skip_head` None leaves the model's head alone only where the file's does not fit."""
    given, size = str(path), measure(OWN, _shapes(model))
    path = weights_file(path, size.name or str(size), size.classes if skip_head is False else None)
    source = str(path) if os.path.isfile(os.path.expanduser(given)) else f"{given} ({path})"
    with open_recognised(path, ema, repr(source)) as found:
        if skip_head is None:
            skip_head = measure(found.table, found.arrays.shapes).classes != size.classes
        return load_recognised(model, found, source, skip_head, verbose)


def load_recognised(model, found, source, skip_head=False, verbose=0):
    """`load_weights` of a file that is open, as `open_recognised` yields it; `source` is its name in the report."""
    options = {"where": found.where, "source": source, "skip_head": skip_head, "verbose": verbose}
    report = _fill(model, found.table, found.arrays, **options)
    left_out = {found.prefix + name: why for name, why in report.left_out.items()}
    return dataclasses.replace(report, prefix=found.prefix, left_out=left_out | found.beside)


def apply_weights(model, weights):
    """The `weights` argument of the constructors: what `load_weights` takes, or a model whose encoder is taken over.

    The final norm comes along where there is one, and the head where it has as many classes; otherwise they stay at
    their initialisation.

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
    return _from_file(model, weights, None)


def _from_model(model, other, *, where, source, skip_head):
    variables = _variables(other)
    types = {path: keras.backend.standardize_dtype(v.dtype) for path, v in variables.items()}
    arrays = Arrays(_shapes(other), types, lambda path: keras.ops.convert_to_numpy(variables[path]).astype("float32"))
    return _fill(model, OWN, arrays, where=where, source=source, skip_head=skip_head, theirs=statistics(other))


def _fill(model, table, arrays, *, where, source, skip_head, verbose=0, theirs=None):
    variables = _variables(model)
    pairing = pair_up(table, arrays.shapes, _shapes(model), where=where, skip_head=skip_head)
    names = [pair.theirs for pair in pairing.pairs]
    numbers_or_raise(arrays, names, where)
    finite_or_raise(arrays, names, where)
    stem, adapted = _other_stem(model, pairing, arrays, where, theirs)
    bar = keras.utils.Progbar(len(pairing.pairs), verbose=verbose, unit_name="array")
    for pair in pairing.pairs:
        value = stem[pair.ours] if pair.ours in stem else CONVERSIONS[pair.conversion].forward(arrays.read(pair.theirs))
        # A backend copies what is transposed, in one go. Else it may keep the array itself, a view of the file.
        variables[pair.ours].assign(value.copy() if value.flags.c_contiguous else value)
        bar.add(1)
    loaded = tuple(pair.ours for pair in pairing.pairs)
    return LoadReport(source, table.name, loaded, pairing.left_out, pairing.untouched, adapted)


def _other_stem(model, pairing, arrays, where, theirs):
    """({path: value}, {path: how it was made}) of a stem whose channels are not the file's, else two empty dicts."""
    before, after = pairing.channels
    if before == after:
        return {}, {}
    stem = [pair for pair in pairing.pairs if pair.ours in STEM]
    read = {pair.ours: CONVERSIONS[pair.conversion].forward(arrays.read(pair.theirs)) for pair in stem}
    ours = statistics(model)
    values = adapted_stem(*(read[path] for path in STEM), after, theirs or channel_statistics(before), ours)
    how = how_adapted(before, after, folded=ours is not None)
    decoder = pairing.untouched.get("decoder/mask_token")
    warnings.warn(
        f"{where} has a stem for {before} channels, the model one for {after}: the kernel is made from {how}"
        + (f"; the model's decoder is left as it is: {decoder}" if decoder else ""),
        stacklevel=5,
    )
    return dict(zip(STEM, values, strict=True)), dict.fromkeys(STEM, how)


def _variables(model):
    variables = variables_of(model)
    if not variables:
        raise ValueError(f"model {model.name!r} has no variables yet: build it first")
    return variables


def _shapes(model):
    return {path: tuple(v.shape) for path, v in _variables(model).items()}
