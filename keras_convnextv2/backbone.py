"""The network as a functional Keras model: any depths and dims, the eight published sizes, and its feature pyramid."""

import functools
import inspect
import warnings

import keras

from keras_convnextv2.layers import LayerNorm, Preprocessing, Stage, Stem
from keras_convnextv2.layers.composite import plain
from keras_convnextv2.layers.dense import Dense
from keras_convnextv2.layers.initial import STDDEV, InitialNormal, drawing
from keras_convnextv2.layers.network import levels_of, network_layers, prefix_of, stages_of
from keras_convnextv2.layers.stem import check_size
from keras_convnextv2.portable import Portable
from keras_convnextv2.sizes import DEFAULT_SIDE, SIZES
from keras_convnextv2.weights import apply_weights
from keras_convnextv2.weights.presets import find_preset

# What others call our arguments.
SYNONYMS = {
    "num_classes": "classes",
    "drop_rate": "drop_path_rate",
    "drop_path": "drop_path_rate",
    "in_chans": "input_shape=(height, width, channels)",
    "patch_size": "stem_patch_size",
    "pretrained": "weights",
}


def _check_words(function, words):
    """Raises where somebody uses another library's name of an argument, with ours."""
    for word in SYNONYMS.keys() & words.keys():
        raise TypeError(f"{function}() calls it {SYNONYMS[word]}. Received: {word}={words[word]!r}")


def _hinting(function):
    @functools.wraps(function)
    def hinted(*args, **kwargs):
        _check_words(function.__name__, kwargs)
        return function(*args, **kwargs)

    return hinted


@_hinting
def ConvNeXtV2(
    depths,
    dims,
    include_top=True,
    include_preprocessing=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    name="convnextv2",
    *,
    drop_path_rate=0.0,
    head_init_scale=1.0,
    stem_patch_size=4,
    remat=False,
    mean=None,
    std=None,
    seed=None,
    dtype=None,
):
    """ConvNeXt V2 with any depths and dims, as a functional `keras.Model`; channels last, whatever keras.json says.

    Args:
        depths: blocks of each stage, such as (3, 3, 9, 3).
        dims: channels of each stage, such as (96, 192, 384, 768).
        include_top: end with pooling, norm and classifier.
        include_preprocessing: take images 0..255 of any number type and normalise them inside; else the images are
            already normalised. It holds no weights.
        weights: None; "imagenet" or another preset of this size (see `keras_convnextv2.list_presets`), which is
            downloaded; "hf:owner/name"; the path of a weight file (see `keras_convnextv2.load_weights`); or a model
            of the same size (a backbone or an FCMAE) whose encoder is taken over.
        input_tensor: a `keras.KerasTensor` to build on. The layers are then called `NAME_stem`, `NAME_stage_0` ... by
            the model's name, so that networks of different names can share an input.
        input_shape: (H, W, C), by default (224, 224, 3) with the top and (None, None, 3) without. Any size of at
            least the total stride, any channel count; the remainder of a size that is no multiple is dropped.
        pooling: without the top: None (the last map), "avg" or "max" (pooled features after the final norm).
        classes: outputs of the classifier, or their names, which the model then keeps (`class_names`).
        classifier_activation: None for logits.
        drop_path_rate: of the last block; a linear ladder from 0 at the first.
        head_init_scale: factor on the classifier's initial weights; the reference fine-tunes with 0.001.
        stem_patch_size: 4 in the paper; 1 and 2 give total strides of 8 and 16 for small pictures.
        remat: recompute each block in the backward pass: less memory, more time.
        mean, std: for the preprocessing, fractions of 1 for each channel; ImageNet's by default (for other than
            three channels the mean over its colours).
        seed: int that makes the drop paths repeatable.
        dtype: a policy such as "mixed_bfloat16"; the default is Keras' global one.
    Returns:
        A `keras.Model` of layers `preprocessing`, `stem`, `stage_0` ..., `pool`, `norm`, `head`, `predictions`.
    Raises:
        ValueError: depths and dims of different lengths, a size below the total stride, unknown pooling, weights
            that do not fit.
    Source:
        ConvNeXt V2 (arXiv 2301.00808), section 4 and appendix; reference models/convnextv2.py.
    """
    depths, dims, classes, stem_patch_size, seed = map(plain, (depths, dims, classes, stem_patch_size, seed))
    drop_path_rate, head_init_scale = plain(drop_path_rate), plain(head_init_scale)
    _check(depths, dims, include_top, pooling, classes, stem_patch_size)
    policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
    total_stride = stem_patch_size * 2 ** (len(depths) - 1)
    images = _images(input_tensor, input_shape, include_top, total_stride)
    x = images
    prefix = "" if input_tensor is None else f"{name}_"
    with drawing(weights is None):
        if include_preprocessing:
            x = Preprocessing(mean, std, dtype=policy, name=f"{prefix}preprocessing")(x)
        x = Stem(dims[0], stem_patch_size, total_stride, dtype=policy, name=f"{prefix}stem")(x)
        x = _staged(x, depths, dims, drop_path_rate, seed, prefix, remat=remat, dtype=policy)
        # Pooling, final norm, classifier and softmax cost nothing and decide the digits: at least float32.
        exact = keras.backend.result_type(policy.compute_dtype, "float32")
        if include_top or pooling:
            x = _pooled(x, pooling, exact, prefix)
        if include_top:
            x = _classified(x, classes, classifier_activation, head_init_scale, exact, prefix)
    sources = keras.utils.get_source_inputs(images)
    inputs = sources[0] if len(sources) == 1 else sources
    model = ConvNeXtV2Network(inputs, x, name=name)
    if weights is not None:
        _take_over(model, weights)
    return model


@keras.saving.register_keras_serializable(package="keras_convnextv2")
class ConvNeXtV2Network(Portable, keras.Model):
    """The functional model that `ConvNeXtV2` returns: a `keras.Model` whose policy is that of its stages.

    `compile` asks a model's policy whether the loss must be scaled (mixed_float16); Keras keeps it neither in a file
    nor in a clone.
    """

    def __init__(self, *args, **kwargs):  # with these Keras 3.12 and newer save and clone it as a functional model
        super().__init__(*args, **kwargs)
        self.dtype_policy = stages_of(self)[0].dtype_policy
        self.autocast = False  # pictures stay whole until the preprocessing has subtracted their mean


def _staged(x, depths, dims, drop_path_rate, seed, prefix, **options):
    ladder = drop_path_ladder(drop_path_rate, depths)
    for s, (dim, rates) in enumerate(zip(dims, ladder, strict=True)):
        stage_seed = None if seed is None else seed + sum(depths[:s])
        x = Stage(dim, rates, downsample=s > 0, seed=stage_seed, name=f"{prefix}stage_{s}", **options)(x)
    return x


def _pooled(x, pooling, dtype, prefix):
    pool = keras.layers.GlobalMaxPooling2D if pooling == "max" else keras.layers.GlobalAveragePooling2D
    x = pool(data_format="channels_last", dtype=dtype, name=f"{prefix}pool")(x)  # whatever keras.json says
    return LayerNorm(dtype=dtype, name=f"{prefix}norm")(x)


def _classified(x, classes, activation, init_scale, dtype, prefix):
    named = {} if isinstance(classes, int) else {"class_names": classes}
    units = len(classes) if named else classes
    initial = InitialNormal(STDDEV * init_scale)
    x = Dense(units, kernel_initializer=initial, dtype=dtype, name=f"{prefix}head", **named)(x)
    return x if activation is None else keras.layers.Activation(activation, dtype=dtype, name=f"{prefix}predictions")(x)


def _take_over(model, weights):
    """Fill a model that was built without drawing; a head that stays new is drawn after all, and said."""
    report = apply_weights(model, weights)
    if "head/kernel" in report.untouched:
        head = network_layers(model)["head"]
        head.kernel.assign(head.kernel_initializer(head.kernel.shape, head.kernel.dtype))
        new = " and ".join(sorted({path.split("/")[0] for path in report.untouched}))
        warnings.warn(f"new in {model.name!r}: {new}; {report.source!r} has none that fits", stacklevel=3)


def drop_path_ladder(rate, depths):
    """The rates of all blocks, stage by stage: from 0 at the first block to `rate` at the last."""
    last = max(sum(depths) - 1, 1)
    rates = [rate * b / last for b in range(sum(depths))]
    return [tuple(rates[sum(depths[:s]) : sum(depths[: s + 1])]) for s in range(len(depths))]


def pyramid(model, norm=False):
    """The maps of all stages of a ConvNeXt V2: a model from images to {"P2": ..., "P3": ..., "P4": ..., "P5": ...}.

    Args:
        model: a model made by `ConvNeXtV2` or one of the constructors; its weights are shared.
        norm: put a fresh LayerNorm behind each map, as detection and segmentation do.
    Shapes:
        Px (B, H / s, W / s, dims) with s = 4, 8, 16, 32 for a stem patch of 4. The names keep counting from P2 for
        other stems.
    """
    maps, prefix = {}, prefix_of(network_layers(model)["stem"])
    for s, (level, stage) in enumerate(levels_of(model).items()):
        x = stage.output
        maps[level] = LayerNorm(dtype=stage.dtype_policy, name=f"{prefix}norm_{s}")(x) if norm else x
    return keras.Model(model.input, maps, name=f"{model.name}_pyramid")


def _check(depths, dims, include_top, pooling, classes, stem_patch_size):
    if len(depths) != len(dims) or not depths:
        raise ValueError(f"depths and dims must have the same length. Received: depths={depths}, dims={dims}.")
    if min(*depths, *dims, 1) < 1:
        raise ValueError(f"depths and dims must be positive. Received: depths={depths}, dims={dims}.")
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"pooling must be None, 'avg' or 'max'. Received: {pooling!r}.")
    if include_top and not (classes if isinstance(classes, tuple) else isinstance(classes, int) and classes > 0):
        raise ValueError(f"classes must be a positive int, or names. Received: {classes!r}.")
    if not isinstance(stem_patch_size, int) or stem_patch_size < 1:
        raise ValueError(f"stem_patch_size must be a positive int such as 1, 2, 4. Received: {stem_patch_size!r}.")


def _images(input_tensor, input_shape, include_top, total_stride):
    if input_tensor is not None:
        if not keras.backend.is_keras_tensor(input_tensor):
            raise ValueError(f"input_tensor must be a KerasTensor, such as keras.Input's. Received: {input_tensor!r}.")
        return input_tensor
    if input_shape is None:
        input_shape = (DEFAULT_SIDE, DEFAULT_SIDE, 3) if include_top else (None, None, 3)
    input_shape = plain(input_shape)
    if len(input_shape) != 3 or input_shape[2] is None:
        raise ValueError(f"input_shape must be (height, width, channels). Received: {tuple(input_shape)}.")
    check_size(input_shape[:2], total_stride)
    return keras.Input(input_shape, name="images")


def _constructor(size):
    depths, dims = SIZES[size]
    parameters = list(inspect.signature(ConvNeXtV2).parameters.values())[2:]
    default_name = f"convnextv2_{size}"
    signature = inspect.Signature([p.replace(default=default_name) if p.name == "name" else p for p in parameters])

    def construct(*args, **kwargs):
        _check_words(construct.__name__, kwargs)
        given = signature.bind(*args, **kwargs)
        given.arguments.setdefault("name", default_name)
        return ConvNeXtV2(depths, dims, *given.args, **given.kwargs)

    construct.__signature__ = signature
    construct.__name__ = construct.__qualname__ = f"ConvNeXtV2{size.capitalize()}"
    construct.__doc__ = f"ConvNeXt V2 {size.capitalize()}: `ConvNeXtV2({depths}, {dims}, ...)`, with its arguments."
    return construct


_CONSTRUCTORS = {size: _constructor(size) for size in SIZES}
ConvNeXtV2Atto = _CONSTRUCTORS["atto"]
ConvNeXtV2Femto = _CONSTRUCTORS["femto"]
ConvNeXtV2Pico = _CONSTRUCTORS["pico"]
ConvNeXtV2Nano = _CONSTRUCTORS["nano"]
ConvNeXtV2Tiny = _CONSTRUCTORS["tiny"]
ConvNeXtV2Base = _CONSTRUCTORS["base"]
ConvNeXtV2Large = _CONSTRUCTORS["large"]
ConvNeXtV2Huge = _CONSTRUCTORS["huge"]


def from_preset(name, *, classes=None, include_top=None, **options):
    """The model of a published row: its size, picture size, head and weights, which are downloaded.

    Args:
        name: in full, as in `list_presets`, such as "convnextv2_tiny.fcmae_ft_in22k_in1k_384".
        classes: of the head, a number or names; by default the row's. Another number gets a new head, with a
            warning.
        include_top: with a head; by default whether the row has one or `classes` are given.
        options: of the constructors, such as `input_shape` or `drop_path_rate`.
    Returns:
        The functional model, as `ConvNeXtV2Atto` ... `ConvNeXtV2Huge` return it.
    Raises:
        ValueError: no row of that name, or one of several sizes.
    """
    preset = find_preset(name)
    if include_top is None:
        include_top = bool(preset.classes or classes)
    given = {"input_shape": preset.input_shape} if "input_tensor" not in options else {}
    if include_top:
        given["classes"] = classes or preset.classes or 1000
    constructor = _CONSTRUCTORS[preset.size]
    return constructor(include_top=include_top, weights=preset.name, **{**given, **options})
