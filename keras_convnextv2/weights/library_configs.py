"""What other libraries want to know of a network beside its weights: their config files, as dicts."""

import collections
import dataclasses

import keras

from keras_convnextv2.layers.dense import checked_names
from keras_convnextv2.layers.dense import class_names as names_of
from keras_convnextv2.layers.initial import STDDEV
from keras_convnextv2.layers.network import entry, network_layers, stages_of
from keras_convnextv2.preprocessing import channel_statistics, imagenet_classes, published_crop
from keras_convnextv2.sizes import DEFAULT_SIDE
from keras_convnextv2.weights.channels import statistics
from keras_convnextv2.weights.matching import Size

CONV_LAYOUT = ("atto", "femto", "pico", "nano")  # timm builds their pointwise layers as 1x1 convolutions
STAGES = 4  # written into timm's and the authors' code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """What the variables of a model do not tell.

    Args:
        size: depths, dims and stem.
        classes: of the classifier or segmenter, 0 without one, and of a detector.
        pooling: "avg" or "max".
        picture: (height, width) of its input, 224 where it is open.
        mean, std: of the preprocessing, fractions of 1 for each channel.
        drop_path_rate: of the last block.
        class_names: of the head; None for ImageNet's or none.
        segmenter: the config of a `UPerNet`, None for other models.
    """

    size: Size
    classes: int
    pooling: str
    picture: tuple
    mean: tuple
    std: tuple
    drop_path_rate: float
    class_names: tuple | None
    segmenter: dict | None = None


def describe(model, size, class_names=None):
    """The Network of a model of `ConvNeXtV2`, an `FCMAE`, a `UPerNet` or a `MaskRCNN`."""
    stages, layers = stages_of(model), network_layers(model)
    classes = (size.classes or 0) if "head" in layers or size.pools else 0
    mean, std = statistics(model) or channel_statistics(size.stem[2])
    return Network(
        size=size,
        classes=classes,
        pooling="max" if isinstance(layers.get("pool"), keras.layers.GlobalMaxPooling2D) else "avg",
        picture=tuple(side or DEFAULT_SIDE for side in entry(model).shape[1:3]),
        mean=mean,
        std=std,
        drop_path_rate=float(stages[-1].drop_paths[-1]),
        class_names=names_of(model) if class_names is None else checked_names(class_names, classes),
        segmenter=model.get_config() if size.pools else None,
    )


def check_expressible(network, name):
    """Raises when a library, "timm", "huggingface", "official" or "mmdetection", cannot build this network."""
    depth, patch = len(network.size.depths), network.size.stem[0]
    if name != "huggingface" and depth != STAGES:
        raise ValueError(f"{name!r} networks have {STAGES} stages. Received: a model of {depth}; {_elsewhere(name)}")
    if name in ("official", "mmdetection") and patch != 4:
        raise ValueError(f"{name!r} networks have a stem patch of 4. Received: {patch}; {_elsewhere(name)}")
    if name == "timm" and (patch == 2 or patch > 7):  # 2 halves the first stage, from 8 on the last is not halved
        raise ValueError(f"'timm' takes stem patches of 1 and 3 to 7. Received: {patch}; {_elsewhere(name)}")
    if name != "timm" and network.pooling == "max":
        raise ValueError(
            f"{name!r} networks pool by the mean. Received: a model with pooling='max'; {_elsewhere(name)}"
        )

    if name == "huggingface" and network.segmenter and network.segmenter["auxiliary_channels"] and depth != STAGES:
        raise ValueError(
            f"transformers' auxiliary head reads the third of {STAGES} maps. Received: a model of {depth} stages; "
            f"with auxiliary_channels=0 it can be written, model.save always is"
        )


def _elsewhere(name):
    others = {"timm": "'huggingface'", "huggingface": "'timm'"}.get(name, "'huggingface' or 'timm'")
    return f"{others} may be able to, model.save always is"


def timm_config(network):
    """`config.json` of timm, for `hf-hub:` and `local-dir:`; sizes without a name are built as a changed Tiny."""
    size, picture = network.size, network.picture
    classes = 0 if network.segmenter else network.classes
    patch, _, channels, _ = size.stem
    arguments = {
        "depths": None if size.name else size.depths,
        "dims": None if size.name else size.dims,
        "patch_size": None if patch == 4 else patch,
        "in_chans": None if channels == 3 else channels,
        "global_pool": None if network.pooling == "avg" else network.pooling,
    }
    crop, crop_mode = published_crop(min(picture))
    stride = patch * 2 ** (len(size.depths) - 1)
    return {
        "architecture": f"convnextv2_{size.name or 'tiny'}",
        "num_classes": classes,
        "num_features": size.dims[-1],
        "global_pool": network.pooling,
        "model_args": {name: value for name, value in arguments.items() if value is not None},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": (channels, *picture),
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": crop,
            "crop_mode": crop_mode,
            "mean": network.mean,
            "std": network.std,
            "num_classes": classes,
            "pool_size": tuple(side // stride for side in picture),
            "first_conv": "stem.0",
            "classifier": "head.fc",
        },
    }


def huggingface_config(network):
    """`config.json` of transformers' ConvNextV2ForImageClassification, ConvNextV2Model without a head, or UPerNet."""
    labels = {}
    if network.classes:
        names = network.class_names or _labels(network.classes)
        labels["id2label"] = {str(i): name for i, name in enumerate(names)}
        labels["label2id"] = {name: i for i, name in enumerate(names)}
    if network.segmenter:
        return {**_huggingface_upernet(network), **labels}
    kind = "ConvNextV2ForImageClassification" if network.classes else "ConvNextV2Model"
    return {"architectures": [kind], **_huggingface_network(network), **labels}


def _huggingface_network(network):
    size, picture = network.size, network.picture
    return {
        "model_type": "convnextv2",
        "depths": size.depths,
        "hidden_sizes": size.dims,
        "num_stages": len(size.depths),
        "patch_size": size.stem[0],
        "num_channels": size.stem[2],
        "image_size": picture[0] if picture[0] == picture[1] else picture,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,  # of the final norm; the published files say 1e-12, which is not the network's
        "drop_path_rate": network.drop_path_rate,
        "initializer_range": STDDEV,
        "dtype": "float32",
    }


def _huggingface_upernet(network):
    size, segmenter = network.size, network.segmenter
    stages = [f"stage{s + 1}" for s in range(len(size.depths))]
    return {
        "architectures": ["UperNetForSemanticSegmentation"],
        "model_type": "upernet",
        "backbone_config": {**_huggingface_network(network), "out_features": stages},
        "hidden_size": segmenter["channels"],
        "pool_scales": segmenter["pool_scales"],
        "use_auxiliary_head": bool(segmenter["auxiliary_channels"]),
        "auxiliary_loss_weight": 0.4,
        "auxiliary_in_channels": size.dims[-2],
        "auxiliary_channels": segmenter["auxiliary_channels"],
        "auxiliary_num_convs": 1,
        "auxiliary_concat_input": False,
        "loss_ignore_index": segmenter["ignore"],
        "initializer_range": STDDEV,
        "dtype": "float32",
    }


def _labels(classes):
    names = imagenet_classes()
    if classes != len(names):
        return [f"LABEL_{i}" for i in range(classes)]
    counts = collections.Counter(name for _, name in names)  # a crane is a bird and a machine
    unique = [name if counts[name] == 1 else f"{name}_({wordnet})" for wordnet, name in names]
    return [name.replace("_", " ") for name in unique]


def huggingface_preprocessor(network):
    """`preprocessor_config.json` of transformers' ConvNextImageProcessor, which makes square pictures.

    Of a segmenter it is SegformerImageProcessor's, which brings pictures to one size.
    """
    scaled = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": network.mean,
        "image_std": network.std,
    }
    if network.segmenter:
        size = dict(zip(("height", "width"), network.picture, strict=True))
        return {"image_processor_type": "SegformerImageProcessor", **scaled, "size": size, "resample": 2}  # bilinear
    crop, _ = published_crop(min(network.picture))
    return {
        "image_processor_type": "ConvNextImageProcessor",
        **scaled,
        "size": {"shortest_edge": min(network.picture)},
        "crop_pct": crop,
        "resample": 3,  # bicubic
    }
