"""A trained model as `--model` names it, with the picture that it was made for and the names of its outputs."""

import collections
import dataclasses
import hashlib
import json
import pathlib
import zipfile

import keras

import keras_convnextv2 as kc
from keras_convnextv2.layers import Preprocessing
from keras_convnextv2.layers.network import layers_in_front, network_layers, network_of, preprocessing_of, stages_of
from keras_convnextv2.preprocessing import imagenet_classes, published_crop
from keras_convnextv2.sizes import DEFAULT_SIDE
from keras_convnextv2.weights.hub import HUB, weights_file
from keras_convnextv2.weights.loading import load_recognised
from keras_convnextv2.weights.matching import measure, open_recognised
from keras_convnextv2.weights.presets import UnknownPreset, find_preset
from training.checkpoints import DAMAGE
from training.fields import command_line, require
from training.quiet import without_notes
from training.workdir import MODEL, RECIPE, RESULTS, read_record, read_results

KINDS = "the workdir of an ended run, a .keras file, a preset, hf:owner/name or a file of weights"
NO_CROP = 0.0  # of a config: that of the model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A model that takes pictures 0..255.

    Args:
        name: what the user called it.
        model: classifier or encoder.
        image_size: (height, width) of its evaluation picture.
        crop_fraction: of that picture; None squashes.
        names: what its outputs are called, each once; None where nobody said it.
        ids: WordNet's names of the same outputs, () but for ImageNet's.
        published: whether it is a preset, which was trained on none of the user's pictures.
        record: what the run that trained it has written about itself; {} for others.
    """

    name: str
    model: keras.Model
    image_size: tuple
    crop_fraction: float | None
    names: tuple | None = None
    ids: tuple = ()
    published: bool = False
    record: dict = dataclasses.field(default_factory=dict)

    @property
    def outputs(self):
        """How many classes it tells apart; 0 for an encoder, a segmenter and a detector."""
        if self.segments or self.detects:
            return 0
        shape = self.model.output_shape
        return shape[-1] if isinstance(shape, tuple) and len(shape) == 2 and _has_head(self.model) else 0

    @property
    def segments(self):
        """Whether it gives a class to each pixel."""
        return isinstance(self.model, kc.UPerNet)

    @property
    def detects(self):
        """Whether it gives boxes."""
        return isinstance(self.model, kc.MaskRCNN)

    @property
    def channels(self):
        return network_of(self.model).input_shape[-1]

    @property
    def probabilities(self):
        """Whether its outputs are probabilities, and no logits."""
        return getattr(self.model.layers[-1], "activation", None) is keras.activations.softmax

    def classifier(self):
        """The model from pictures to scores.

        Raises:
            ValueError: it has no head.
        """
        words = ["--model", self.name, "--data", "folder:LABELLED_PICTURES", "--workdir", "FOLDER"]
        hint = f"{command_line('probe', *words)} measures what an encoder has learnt."
        other = "a segmenter" if self.segments else "a detector" if self.detects else ""
        received = f"{self.name}, {other or 'an encoder without a head'}"
        require(self.outputs, "model must be a classifier", received, "" if other else hint)
        return _taking_pictures(self.model)

    def encoder(self):
        """The model from pictures to pooled features, and what they are in words.

        Those of a classifier are what its head sees. An encoder of FCMAE was trained without a final norm: its averaged
        map gets a LayerNorm without scale and shift, so that features of both kinds are of the same size.
        """
        layers, images = network_layers(self.model), network_of(self.model).input
        if "norm" in layers:
            return _taking_pictures(keras.Model(images, layers["norm"].output)), "pooled, after its final norm"
        x = stages_of(self.model)[-1].output
        exact = keras.backend.result_type(x.dtype, "float32")
        x = keras.layers.GlobalAveragePooling2D(data_format="channels_last", dtype=exact)(x)
        x = keras.layers.LayerNormalization(center=False, scale=False, epsilon=1e-6, dtype=exact)(x)
        return _taking_pictures(keras.Model(images, x)), "averaged, then LayerNorm without scale and shift"

    def fingerprint(self):
        """A text that differs where the weights do."""
        summed = hashlib.sha256()
        for variable in self.model.weights:
            summed.update(f"{tuple(variable.shape)} ".encode())
            summed.update(keras.ops.convert_to_numpy(variable).tobytes())
        return summed.hexdigest()[:16]


def open_trained(name, image_size=None, crop_fraction=NO_CROP):
    """The Trained of that name.

    Args:
        name: the workdir of an ended run or its model.keras; another .keras file; the name of a preset; what
            `load_weights` takes.
        image_size: (height, width) in place of the model's own.
        crop_fraction: in place of its own; NO_CROP leaves that.
    Raises:
        FileNotFoundError: nothing of this name.
        ValueError: it is no model, or the picture is too small for it.
    """
    require(name, f"--model must be {KINDS}", name, "Try --model runs/first.")
    path = pathlib.Path(name).expanduser()
    if path.is_dir():
        if not (path / MODEL).is_file():
            missing = f"{path / MODEL} is missing: has that run ended?"
            raise FileNotFoundError(f"--model must be {KINDS}. Received: {name!r}; {missing}")
        path = path / MODEL
    trained = (
        _of_keras_file(name, path) if path.is_file() and path.suffix == ".keras" else _of_weights(name, image_size)
    )
    size, model = tuple(image_size or trained.image_size), trained.model
    if crop_fraction == NO_CROP:
        resized = image_size is not None and not trained.record and not trained.published
        crop_fraction = _crop(size) if resized else trained.crop_fraction
    if tuple(network_of(model).input_shape[1:3]) not in ((None, None), size):
        if trained.segments or trained.detects:
            fixed = network_of(model).input_shape[1:3]
            raise ValueError(f"image_size must be {fixed}, that of the model's input. Received: {size}.")
        model = _at_size(model, size)
    return dataclasses.replace(trained, model=model, image_size=size, crop_fraction=crop_fraction)


def _of_keras_file(name, path):
    model = _loaded(path)
    model = model.backbone if isinstance(model, kc.FCMAE) else model
    record = read_record(path.with_name(RECIPE)) if path.with_name(RECIPE).is_file() else {}
    recipe = record.get("recipe", {})
    fixed = tuple(side or DEFAULT_SIDE for side in network_of(model).input_shape[1:3])
    size = tuple(recipe.get("image_size", fixed))
    crop = recipe.get("crop_fraction", _crop(size))
    names = kc.class_names(model) or (_names_in_results(path.with_name(RESULTS)) if record else None)
    unnamed = record or isinstance(model, kc.UPerNet | kc.MaskRCNN)  # else a network of 1000 outputs is ImageNet's
    named = {"names": names and tuple(names)} if names or unnamed else _imagenet(model)
    facts = {"image_size": size, "crop_fraction": crop, "record": record}
    return Trained(name=name, model=model, **named, **facts)


def _loaded(path):
    try:
        with without_notes():
            return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras' texts have many lines
        raise ValueError(_damaged("--model", path, error)) from error


def _damaged(what, path, error):
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return f"{what} must be a whole .keras file. Received: {str(path)!r}, {reason[0]}"


def names_in(path):
    """What a .keras file calls the outputs of its head, without building its model; None where they have no names.

    Raises:
        ValueError: a damaged file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [json.loads(archive.read("config.json"))]
    except DAMAGE as error:
        raise ValueError(_damaged("init", path, error)) from error
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            found = [_plain(part.get(key)) for key in ("class_names", "classes")]
            if names := next((names for names in found if names and isinstance(names[0], str)), None):
                return names
            parts.extend(part.values())
        elif isinstance(part, list):
            parts.extend(part)
    return None


def _plain(value):
    """A tuple of what a config has as a list, or as Keras writes a tuple; None of anything else."""
    value = value.get("items") if isinstance(value, dict) and value.get("class_name") == "__tuple__" else value
    return tuple(value) if isinstance(value, list) else None


def _names_in_results(path):
    """Of a run whose model was saved before heads kept the names of their outputs."""
    return read_results(path).get("classes") if path.is_file() else None


def _of_weights(name, image_size):
    """The network that a file of weights, downloaded where needed, is of."""
    try:
        preset = find_preset(name.removeprefix(HUB))
    except UnknownPreset:
        preset = None
    side = (preset.input_size,) * 2 if preset else (DEFAULT_SIDE, DEFAULT_SIDE)
    with open_recognised(weights_file(name), where=repr(name)) as found:
        size = measure(found.table, found.arrays.shapes)
        require(size.stem, f"--model must be {KINDS}", name, "It holds no network.")
        head = {"classes": size.classes} if size.classes else {"include_top": False}
        picture = (*(image_size or side), size.stem[2])
        model = kc.ConvNeXtV2(size.depths, size.dims, **head, input_shape=picture, stem_patch_size=size.stem[0])
        load_recognised(model, found, name)
    crop = (None if preset.crop_mode == "squash" else preset.crop) if preset else _crop(image_size or side)
    facts = {"image_size": side, "crop_fraction": crop, "published": preset is not None}
    return Trained(name=name, model=model, **_imagenet(model), **facts)


def _crop(size):
    """Of pictures of this size as the published networks were evaluated."""
    fraction, mode = published_crop(min(size))
    return None if mode == "squash" else fraction


def _imagenet(model):
    """{"names": ..., "ids": ...} of outputs that nobody named: ImageNet's where there are a thousand, else {}."""
    ids, words = zip(*imagenet_classes(), strict=True)
    if model.output_shape[-1] != len(ids) or not _has_head(model):
        return {}
    twice = {word for word, count in collections.Counter(words).items() if count > 1}
    pairs = zip(ids, words, strict=True)
    return {"names": tuple(f"{word} ({id})" if word in twice else word for id, word in pairs), "ids": ids}


def _has_head(model):
    try:
        return "head" in network_layers(model)
    except ValueError:  # somebody else's network
        return len(model.output_shape) == 2


def _at_size(model, size):
    """The same weights for pictures of another size."""
    images = keras.Input((*size, model.input_shape[-1]), name="images")
    with without_notes():  # Keras imports TensorFlow to clone, whatever the backend
        copy = keras.models.clone_model(model, input_tensors=images)
    copy.set_weights(model.get_weights())
    return copy


def _taking_pictures(model):
    """The model itself, or where its network wants normalised pictures, one that normalises them."""
    try:
        plain = preprocessing_of(model) is None and not layers_in_front(model)
    except ValueError:
        return model
    if not plain:
        return model
    images = keras.Input(model.input_shape[1:], name="images")
    return keras.Model(images, model(Preprocessing(name="preprocessing")(images)))
