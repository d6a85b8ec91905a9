"""Name tables: which array of a foreign file is which variable of ours, one row per kind of parameter.

A format is a tuple of rows. Reading and writing use the same rows; nothing else in the package knows a foreign name.
"""

import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Conversion:
    """How an array of a file becomes ours, and back; `ranks` are the ranks that the file's array may have."""

    forward: Callable
    inverse: Callable
    ranks: tuple


REGION = 7  # cells along a side of a region whose box is asked for


def _flat(w):
    if w.size != w.shape[-1]:  # (4, C) would pass as 4 * C channels
        raise ValueError("only the last axis may be longer than 1")
    return w.reshape(-1)


def _grid(w):
    # the flat index of a sparse kernel runs fastest over rows: n = row + side * column
    side = math.isqrt(w.shape[0])
    return w.reshape(side, side, *w.shape[1:]).swapaxes(0, 1)


def _ungrid(w):
    return w.swapaxes(0, 1).reshape(w.shape[0] * w.shape[1], *w.shape[2:])


def _regions_last(w):
    # a region of a detector is flattened channels first there, channels last here
    return w.reshape(w.shape[0], -1, REGION, REGION).transpose(2, 3, 1, 0).reshape(-1, w.shape[0])


def _regions_first(w):
    return w.reshape(REGION, REGION, -1, w.shape[1]).transpose(3, 2, 0, 1).reshape(w.shape[1], -1)


CONVERSIONS = {  # theirs -> ours, ours -> theirs
    "same": Conversion(lambda w: w, lambda w: w, (1,)),
    "own": Conversion(lambda w: w, lambda w: w, (1, 2, 4)),
    "grn": Conversion(_flat, lambda w: w.reshape(1, 1, 1, -1), (1, 2, 4)),  # (1, 1, 1, C), in FCMAE files (1, C)
    "row": Conversion(_flat, lambda w: w.reshape(1, -1), (2,)),  # (1, C) -> (C,)
    "token": Conversion(lambda w: w.reshape(w.shape[1]), lambda w: w.reshape(1, -1, 1, 1), (4,)),  # (1, C, 1, 1)
    "dense": Conversion(np.transpose, np.transpose, (2,)),  # (out, in) -> (in, out)
    "dense_of_region": Conversion(_regions_last, _regions_first, (2,)),  # (out, C * 7 * 7) -> (7 * 7 * C, out)
    "conv1x1": Conversion(  # (out, in, 1, 1) -> (in, out)
        lambda w: w.reshape(w.shape[:2]).T, lambda w: w.T[:, :, None, None], (4,)
    ),
    "conv": Conversion(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1), (4,)),  # OIHW -> HWIO
    "depthwise": Conversion(  # (C, 1, k, k) -> (k, k, C, 1); its own inverse
        lambda w: w.transpose(2, 3, 0, 1), lambda w: w.transpose(2, 3, 0, 1), (4,)
    ),
    "sparse_conv": Conversion(_grid, _ungrid, (3,)),  # (k * k, in, out) -> (k, k, in, out)
    "sparse_depthwise": Conversion(  # (k * k, C) -> (k, k, C, 1)
        lambda w: _grid(w)[..., None], lambda w: _ungrid(w[..., 0]), (2,)
    ),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of parameter; `each` says what its indices run over.

    They are {s} (stage), {n} (stage counted from 1), {b} (block), {p} (pooling), {c} (convolution of a mask head) and
    {l} (level of a feature pyramid).
    """

    # "once", "stage" (s), "down" (s from 1), "block" (s, b), "decoder" (b), "pool" (p), "conv" (c), "level" (l)
    each: str
    theirs: str
    ours: str
    conversion: str

    def pair(self, **index):
        """The Pair of one stage and block."""
        index["n"] = index.get("s", 0) + 1
        return Pair(self.theirs.format(**index), self.ours.format(**index), self.conversion)

    def pattern(self):
        """A regular expression for `theirs` with a group for each of its indices."""
        return re.sub(r"\\\{([snbpcl])\\\}", r"(?P<\1>[0-9]+)", re.escape(self.theirs))


@dataclasses.dataclass(frozen=True)
class Pair:
    """An array of a file and the variable of ours that it belongs to."""

    theirs: str
    ours: str
    conversion: str

    @property
    def part(self):
        return part_of(self.ours)


@dataclasses.dataclass(frozen=True)
class Format:
    """A layout of a file."""

    name: str
    rows: tuple

    @property
    def parts(self):
        """The parts of a network that it has rows for; of norms behind stages one."""
        return {row.pair(s=0, b=0, p=0, c=0, l=0).part for row in self.rows}


ENCODER = "encoder"
# What a file or a model may do without, as a whole; so may the norm behind a stage, norm_0, norm_1 ... of a pyramid.
# Everything else is the encoder and must pair up.
PARTS = {
    "norm": "final norm",
    "head": "classifier head",
    "decoder": "FCMAE decoder",
    "decode_head": "UPerNet head",
    "auxiliary_head": "auxiliary head",
    "decode_head/classifier": "classifier of a UPerNet head",
    "auxiliary_head/classifier": "classifier of an auxiliary head",
    "neck": "feature pyramid of a detector",
    "rpn_head": "region proposal network",
    "box_head": "box head",
    "mask_head": "mask head",
    "box_head/classifier": "classifier of a box head",
    "box_head/deltas": "changes of boxes of each class",
    "mask_head/classifier": "classifier of a mask head",
}
CLASSIFIERS = (  # what `skip_head` leaves alone
    *("head", "decode_head/classifier", "auxiliary_head/classifier"),
    *("box_head/classifier", "box_head/deltas", "mask_head/classifier"),
)
DENSE_HEADS = ("decode_head", "box_head")  # a format that has one of them has all that stands beside the network
COUNTER = "num_batches_tracked"  # of torch's batch norm; nothing depends on it
_STAGE_NORM = re.compile("norm_([0-9]+)")
# Beside the network in files of detectors and segmenters (mmdetection, mmsegmentation, transformers).
OTHER_HEADS = (
    *("neck.", "rpn_head.", "roi_head.", "bbox_head.", "mask_head.", "panoptic_head.", "panoptic_fusion_head."),
    *("decode_head.", "auxiliary_head.", "hidden_states_norms.stem."),
)


def part_of(path):
    """Which part a variable of ours belongs to: a key of PARTS, "norm_0" ..., or the encoder."""
    first, second, *_ = *path.split("/"), ""
    if f"{first}/{second}" in PARTS:
        return f"{first}/{second}"
    return first if first in PARTS or _STAGE_NORM.fullmatch(first) else ENCODER


def part_name(part):
    """A part in words."""
    return PARTS.get(part) or f"norm behind stage {_STAGE_NORM.fullmatch(part)[1]}"


def _weight(each, theirs, ours, conversion):
    return (
        Row(each, f"{theirs}.weight", f"{ours}/kernel", conversion),
        Row(each, f"{theirs}.bias", f"{ours}/bias", "same"),
    )


def _norm(each, theirs, ours):
    return (
        Row(each, f"{theirs}.weight", f"{ours}/gamma", "same"),
        Row(each, f"{theirs}.bias", f"{ours}/beta", "same"),
    )


def _grn(each, theirs, ours, names, conversion):
    return tuple(
        Row(each, f"{theirs}.{name}", f"{ours}/{own}", conversion)
        for name, own in zip(names, ("gamma", "beta"), strict=True)
    )


BLOCK = "stage_{s}/block_{b}"
DOWN = "stage_{s}/downsample"
STAGE_NORM = "norm_{s}"


def _official(grn):
    return (
        *_weight("once", "downsample_layers.0.0", "stem/conv", "conv"),
        *_norm("once", "downsample_layers.0.1", "stem/norm"),
        *_norm("down", "downsample_layers.{s}.0", f"{DOWN}/norm"),
        *_weight("down", "downsample_layers.{s}.1", f"{DOWN}/conv", "conv"),
        *_weight("block", "stages.{s}.{b}.dwconv", f"{BLOCK}/depthwise", "depthwise"),
        *_norm("block", "stages.{s}.{b}.norm", f"{BLOCK}/norm"),
        *_weight("block", "stages.{s}.{b}.pwconv1", f"{BLOCK}/expand", "dense"),
        *_grn("block", "stages.{s}.{b}.grn", f"{BLOCK}/grn", ("gamma", "beta"), grn),
        *_weight("block", "stages.{s}.{b}.pwconv2", f"{BLOCK}/project", "dense"),
        *_norm("once", "norm", "norm"),
        *_weight("once", "head", "head", "dense"),
    )


def _timm(pointwise):
    return (
        *_weight("once", "stem.0", "stem/conv", "conv"),
        *_norm("once", "stem.1", "stem/norm"),
        *_norm("down", "stages.{s}.downsample.0", f"{DOWN}/norm"),
        *_weight("down", "stages.{s}.downsample.1", f"{DOWN}/conv", "conv"),
        *_weight("block", "stages.{s}.blocks.{b}.conv_dw", f"{BLOCK}/depthwise", "depthwise"),
        *_norm("block", "stages.{s}.blocks.{b}.norm", f"{BLOCK}/norm"),
        *_weight("block", "stages.{s}.blocks.{b}.mlp.fc1", f"{BLOCK}/expand", pointwise),
        *_grn("block", "stages.{s}.blocks.{b}.mlp.grn", f"{BLOCK}/grn", ("weight", "bias"), "same"),
        *_weight("block", "stages.{s}.blocks.{b}.mlp.fc2", f"{BLOCK}/project", pointwise),
        *_norm("once", "head.norm", "norm"),
        *_weight("once", "head.fc", "head", "dense"),
    )


def _huggingface(prefix):
    return (
        *_huggingface_encoder(prefix),
        *_norm("once", f"{prefix}layernorm", "norm"),
        *_weight("once", "classifier", "head", "dense"),
    )


def _huggingface_encoder(prefix):
    layer = f"{prefix}encoder.stages.{{s}}.layers.{{b}}"
    down = f"{prefix}encoder.stages.{{s}}.downsampling_layer"
    return (
        *_weight("once", f"{prefix}embeddings.patch_embeddings", "stem/conv", "conv"),
        *_norm("once", f"{prefix}embeddings.layernorm", "stem/norm"),
        *_norm("down", f"{down}.0", f"{DOWN}/norm"),
        *_weight("down", f"{down}.1", f"{DOWN}/conv", "conv"),
        *_weight("block", f"{layer}.dwconv", f"{BLOCK}/depthwise", "depthwise"),
        *_norm("block", f"{layer}.layernorm", f"{BLOCK}/norm"),
        *_weight("block", f"{layer}.pwconv1", f"{BLOCK}/expand", "dense"),
        *_grn("block", f"{layer}.grn", f"{BLOCK}/grn", ("weight", "bias"), "grn"),
        *_weight("block", f"{layer}.pwconv2", f"{BLOCK}/project", "dense"),
    )


def _openmmlab(prefix):
    block = f"{prefix}stages.{{s}}.{{b}}"
    return (
        *_weight("once", f"{prefix}downsample_layers.0.0", "stem/conv", "conv"),
        *_norm("once", f"{prefix}downsample_layers.0.1", "stem/norm"),
        *_norm("down", f"{prefix}downsample_layers.{{s}}.0", f"{DOWN}/norm"),
        *_weight("down", f"{prefix}downsample_layers.{{s}}.1", f"{DOWN}/conv", "conv"),
        *_weight("block", f"{block}.depthwise_conv", f"{BLOCK}/depthwise", "depthwise"),
        *_norm("block", f"{block}.norm", f"{BLOCK}/norm"),
        *_weight("block", f"{block}.pointwise_conv1", f"{BLOCK}/expand", "dense"),
        *_grn("block", f"{block}.grn", f"{BLOCK}/grn", ("gamma", "beta"), "same"),
        *_weight("block", f"{block}.pointwise_conv2", f"{BLOCK}/project", "dense"),
    )


def _batch_norm(each, theirs, ours):
    names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    return tuple(Row(each, f"{theirs}.{name}", f"{ours}/{own}", "same") for name, own in names.items())


def _upernet(norm, classifier):
    """The heads of a UPerNet, as mmsegmentation and transformers call them but for two words."""

    def convolution(each, theirs, ours):
        kernel = Row(each, f"{theirs}.conv.weight", f"{ours}/conv/kernel", "conv")
        return (kernel, *_batch_norm(each, f"{theirs}.{norm}", f"{ours}/norm"))

    return (
        *convolution("pool", "decode_head.psp_modules.{p}.1", "decode_head/pool_{p}"),
        *convolution("once", "decode_head.bottleneck", "decode_head/bottleneck"),
        *convolution("level", "decode_head.lateral_convs.{l}", "decode_head/lateral_{l}"),
        *convolution("level", "decode_head.fpn_convs.{l}", "decode_head/smooth_{l}"),
        *convolution("once", "decode_head.fpn_bottleneck", "decode_head/fusion"),
        *_weight("once", f"decode_head.{classifier}", "decode_head/classifier", "conv1x1"),
        *convolution("once", "auxiliary_head.convs.0", "auxiliary_head/conv"),
        *_weight("once", f"auxiliary_head.{classifier}", "auxiliary_head/classifier", "conv1x1"),
    )


# The parts of a Mask R-CNN beside its backbone, in mmdetection's words; its second names are ours.
_MASK_RCNN = (
    *_weight("stage", "neck.lateral_convs.{s}.conv", "neck/lateral_{s}", "conv"),
    *_weight("stage", "neck.fpn_convs.{s}.conv", "neck/smooth_{s}", "conv"),
    *_weight("once", "rpn_head.rpn_conv", "rpn_head/conv", "conv"),
    *_weight("once", "rpn_head.rpn_cls", "rpn_head/objects", "conv"),
    *_weight("once", "rpn_head.rpn_reg", "rpn_head/deltas", "conv"),
    *_weight("once", "roi_head.bbox_head.shared_fcs.0", "box_head/fc_0", "dense_of_region"),
    *_weight("once", "roi_head.bbox_head.shared_fcs.1", "box_head/fc_1", "dense"),
    *_weight("once", "roi_head.bbox_head.fc_cls", "box_head/classifier", "dense"),
    *_weight("once", "roi_head.bbox_head.fc_reg", "box_head/deltas", "dense"),
    *_weight("conv", "roi_head.mask_head.convs.{c}.conv", "mask_head/conv_{c}", "conv"),
    *_weight("once", "roi_head.mask_head.upsample", "mask_head/upsample", "conv"),  # its kernel is (in, out, k, k)
    *_weight("once", "roi_head.mask_head.conv_logits", "mask_head/classifier", "conv"),
)

# The pre-training script runs a sparse encoder: its kernels are flattened and its biases are rows.
_SPARSE = (
    *_weight("once", "encoder.downsample_layers.0.0", "stem/conv", "conv"),
    *_norm("once", "encoder.downsample_layers.0.1", "stem/norm"),
    *_norm("down", "encoder.downsample_layers.{s}.0.ln", f"{DOWN}/norm"),
    Row("down", "encoder.downsample_layers.{s}.1.kernel", f"{DOWN}/conv/kernel", "sparse_conv"),
    Row("down", "encoder.downsample_layers.{s}.1.bias", f"{DOWN}/conv/bias", "row"),
    Row("block", "encoder.stages.{s}.{b}.dwconv.kernel", f"{BLOCK}/depthwise/kernel", "sparse_depthwise"),
    Row("block", "encoder.stages.{s}.{b}.dwconv.bias", f"{BLOCK}/depthwise/bias", "row"),
    *_norm("block", "encoder.stages.{s}.{b}.norm.ln", f"{BLOCK}/norm"),
    *_weight("block", "encoder.stages.{s}.{b}.pwconv1.linear", f"{BLOCK}/expand", "dense"),
    *_grn("block", "encoder.stages.{s}.{b}.grn", f"{BLOCK}/grn", ("gamma", "beta"), "row"),
    *_weight("block", "encoder.stages.{s}.{b}.pwconv2.linear", f"{BLOCK}/project", "dense"),
    *_weight("once", "proj", "decoder/proj", "conv1x1"),
    Row("once", "mask_token", "decoder/mask_token", "token"),
    *_weight("decoder", "decoder.{b}.dwconv", "decoder/block_{b}/depthwise", "depthwise"),
    *_norm("decoder", "decoder.{b}.norm", "decoder/block_{b}/norm"),
    *_weight("decoder", "decoder.{b}.pwconv1", "decoder/block_{b}/expand", "dense"),
    *_grn("decoder", "decoder.{b}.grn", "decoder/block_{b}/grn", ("gamma", "beta"), "grn"),
    *_weight("decoder", "decoder.{b}.pwconv2", "decoder/block_{b}/project", "dense"),
    *_weight("once", "pred", "decoder/pred", "conv1x1"),
)

# Keras' .weights.h5: groups are called by attribute or by class and number (the reader writes the number 0 out),
# variables by their order in the layer.
_H5_BLOCK = "blocks/conv_ne_xt_v2_block_{b}"


def _h5(each, theirs, ours):
    names = ("gamma", "beta") if ours.endswith(("norm", STAGE_NORM, "grn")) else ("kernel", "bias")
    return tuple(Row(each, f"{theirs}/vars/{i}", f"{ours}/{name}", "own") for i, name in enumerate(names))


def _h5_blocks(each, theirs, ours):
    kinds = ("depthwise", "norm", "expand", "grn", "project")
    return tuple(row for kind in kinds for row in _h5(each, f"{theirs}/{kind}", f"{ours}/{kind}"))


def _h5_encoder(root):
    return (
        *_h5("once", f"{root}layers/stem/conv", "stem/conv"),
        *_h5("once", f"{root}layers/stem/norm", "stem/norm"),
        *_h5("down", f"{root}layers/stage_{{s}}/downsampling/norm", f"{DOWN}/norm"),
        *_h5("down", f"{root}layers/stage_{{s}}/downsampling/conv", f"{DOWN}/conv"),
        *_h5_blocks("block", f"{root}layers/stage_{{s}}/{_H5_BLOCK}", BLOCK),
    )


def _h5_network(root):
    return (
        *_h5_encoder(root),
        *_h5("once", f"{root}layers/layer_norm_0", "norm"),
        *_h5("once", f"{root}layers/dense", "head"),
    )


_H5_FCMAE = (
    *_h5_network("backbone/"),
    Row("once", "decoder/vars/0", "decoder/mask_token", "own"),
    *_h5("once", "decoder/proj", "decoder/proj"),
    *_h5_blocks("decoder", f"decoder/{_H5_BLOCK}", "decoder/block_{b}"),
    *_h5("once", "decoder/pred", "decoder/pred"),
)

_H5_CONV_NORM = ("conv/vars/0", *(f"norm/vars/{i}" for i in range(4)))


def _h5_convolution(each, theirs, ours):
    names = ("conv/kernel", "norm/gamma", "norm/beta", "norm/moving_mean", "norm/moving_variance")
    pairs = zip(_H5_CONV_NORM, names, strict=True)
    return tuple(Row(each, f"{theirs}/{their}", f"{ours}/{name}", "own") for their, name in pairs)


_H5_UPERNET = (
    *_h5_encoder("backbone/"),
    *_h5("stage", "backbone/layers/layer_norm_{s}", STAGE_NORM),
    *_h5_convolution("pool", "decode_head/pools/conv_norm_{p}", "decode_head/pool_{p}"),
    *_h5_convolution("once", "decode_head/bottleneck", "decode_head/bottleneck"),
    *_h5_convolution("level", "decode_head/laterals/conv_norm_{l}", "decode_head/lateral_{l}"),
    *_h5_convolution("level", "decode_head/smooths/conv_norm_{l}", "decode_head/smooth_{l}"),
    *_h5_convolution("once", "decode_head/fusion", "decode_head/fusion"),
    *_h5("once", "decode_head/classifier", "decode_head/classifier"),
    *_h5_convolution("once", "auxiliary_head/conv", "auxiliary_head/conv"),
    *_h5("once", "auxiliary_head/classifier", "auxiliary_head/classifier"),
)


def _h5_parts(theirs, ours, names):
    return tuple(row for name in names for row in _h5("once", f"{theirs}/{name}", f"{ours}/{name}"))


_H5_MASK_RCNN = (  # Keras finds the box head by its own name, the others in the list of heads
    *_h5_encoder("backbone/"),
    *_h5("stage", "backbone/layers/layer_norm_{s}", STAGE_NORM),
    *_h5("stage", "heads/fpn/laterals/conv2d_{s}", "neck/lateral_{s}"),
    *_h5("stage", "heads/fpn/smooths/conv2d_{s}", "neck/smooth_{s}"),
    *_h5_parts("heads/rpn_head", "rpn_head", ("conv", "objects", "deltas")),
    *_h5_parts("box_head", "box_head", ("fc_0", "fc_1", "classifier", "deltas")),
    *_h5("conv", "heads/mask_head/convolutions/conv2d_{c}", "mask_head/conv_{c}"),
    *_h5_parts("heads/mask_head", "mask_head", ("upsample", "classifier")),
)

READABLE = (
    Format("official", _official("grn")),  # the authors' fine-tuned and released FCMAE files
    Format("timm", _timm("dense")),  # tiny to huge
    Format("timm conv", _timm("conv1x1")),  # atto to nano
    Format("huggingface", _huggingface("convnextv2.")),  # ConvNextV2ForImageClassification
    Format("huggingface model", _huggingface("")),  # ConvNextV2Model, which has no classifier
    Format(  # ConvNextV2Backbone, which has a norm behind each stage that it hands out
        "huggingface backbone",
        (*_huggingface_encoder(""), *_norm("stage", "hidden_states_norms.stage{n}", STAGE_NORM)),
    ),
    Format(  # whose last norm is that of its last stage
        "mmpretrain",
        (
            *_openmmlab("backbone."),
            *_norm("once", "backbone.norm3", "norm"),
            *_weight("once", "head.fc", "head", "dense"),
        ),
    ),
    Format("mmpretrain backbone", (*_openmmlab(""), *_norm("once", "norm3", "norm"))),
    # mmsegmentation's too, with a norm behind each stage
    Format("mmdetection", (*_openmmlab("backbone."), *_norm("stage", "backbone.norm{s}", STAGE_NORM))),
    Format("mmdetection backbone", (*_openmmlab(""), *_norm("stage", "norm{s}", STAGE_NORM))),
    Format("official script", _SPARSE),  # of the authors' pre-training: sparse encoder and decoder
    Format("weights.h5", _h5_network("")),
    Format("weights.h5 pyramid", (*_h5_encoder(""), *_h5("stage", "layers/layer_norm_{s}", STAGE_NORM))),  # with norms
    Format("weights.h5 FCMAE", _H5_FCMAE),
    # Behind those that lack the heads: with none in a file, those are taken.
    Format(  # transformers' UperNetForSemanticSegmentation
        "huggingface UPerNet",
        (
            *_huggingface_encoder("backbone."),
            *_norm("stage", "backbone.hidden_states_norms.stage{n}", STAGE_NORM),
            *_upernet("batch_norm", "classifier"),
        ),
    ),
    Format(
        "mmsegmentation UPerNet",
        (
            *_openmmlab("backbone."),
            *_norm("stage", "backbone.norm{s}", STAGE_NORM),
            *_upernet("bn", "conv_seg"),
        ),
    ),
    Format("weights.h5 UPerNet", _H5_UPERNET),
    Format(  # Faster R-CNN too, which has no mask head
        "mmdetection Mask R-CNN",
        (*_openmmlab("backbone."), *_norm("stage", "backbone.norm{s}", STAGE_NORM), *_MASK_RCNN),
    ),
    Format("weights.h5 Mask R-CNN", _H5_MASK_RCNN),
)
# Our own variables, in the words of the same tables: what another Keras model holds.
_OURS = (
    *(*_SPARSE, *_official("grn")[-4:], *_norm("stage", STAGE_NORM, STAGE_NORM)),
    *(*_upernet("bn", "conv_seg"), *_MASK_RCNN),
)
OWN = Format("keras", tuple(Row(r.each, r.ours, r.ours, "own") for r in _OURS))
# The authors' fine-tuning adds two axes to each GRN of a released FCMAE file, so it must have (1, 4C) there.
RELEASED = Format(
    "official FCMAE",
    tuple(row for row in _official("row") if part_of(row.ours) == ENCODER),
)
TABLES = {table.name: table for table in (*READABLE, RELEASED)}
