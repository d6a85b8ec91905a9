"""Transforms and tables, without any file."""

import collections
import dataclasses

import numpy as np
import pytest

from keras_convnextv2.sizes import SIZES
from keras_convnextv2.weights.matching import Size, expand, measure, pair_up, recognise
from keras_convnextv2.weights.rows import CONVERSIONS, OWN, READABLE

THEIR_SHAPES = {  # every axis of its own length
    "same": (5,),
    "own": (2, 3, 4, 5),
    "grn": (1, 1, 1, 5),
    "row": (1, 5),
    "token": (1, 5, 1, 1),
    "dense": (4, 5),
    "dense_of_region": (4, 5 * 7 * 7),
    "conv1x1": (4, 5, 1, 1),
    "conv": (4, 5, 2, 3),
    "depthwise": (5, 1, 2, 3),
    "sparse_conv": (9, 4, 5),
    "sparse_depthwise": (9, 5),
}


def size_of(name):
    depths, dims = SIZES[name]
    return Size(depths, dims, (4, 4, 3, dims[0]), 1000, 1, 512)


def our_shapes(size, parts=("encoder", "norm", "head")):
    """{path: shape} of a model of that size, written from the network's definition."""
    shapes = {"stem/conv/kernel": size.stem, "stem/conv/bias": size.stem[3:]}
    shapes |= {f"stem/norm/{leaf}": size.stem[3:] for leaf in ("gamma", "beta")}
    for s, (depth, c) in enumerate(zip(size.depths, size.dims, strict=True)):
        if s:
            down, before = f"stage_{s}/downsample", size.dims[s - 1]
            shapes |= {f"{down}/norm/gamma": (before,), f"{down}/norm/beta": (before,)}
            shapes |= {f"{down}/conv/kernel": (2, 2, before, c), f"{down}/conv/bias": (c,)}
        for b in range(depth):
            shapes |= block_shapes(f"stage_{s}/block_{b}", c)
    if "norm" in parts:
        shapes |= {"norm/gamma": size.dims[-1:], "norm/beta": size.dims[-1:]}
    if "head" in parts:
        shapes |= {"head/kernel": (size.dims[-1], size.classes), "head/bias": (size.classes,)}
    for s, c in enumerate(size.dims):
        if f"norm_{s}" in parts:
            shapes |= {f"norm_{s}/gamma": (c,), f"norm_{s}/beta": (c,)}
    if "decoder" in parts:
        shapes |= {
            "decoder/proj/kernel": (size.dims[-1], 512),
            "decoder/proj/bias": (512,),
            "decoder/mask_token": (512,),
        }
        shapes |= block_shapes("decoder/block_0", 512)
        shapes |= {"decoder/pred/kernel": (512, 3072), "decoder/pred/bias": (3072,)}
    if "decode_head" in parts:
        shapes |= upernet_shapes(size, 512, 256)
    if "box_head" in parts:
        shapes |= detector_shapes(size, 256, 1024)
    return shapes


def detector_shapes(size, wide, dense):
    kernels = {f"neck/lateral_{s}": (1, 1, c, wide) for s, c in enumerate(size.dims)}
    kernels |= {f"neck/smooth_{s}": (3, 3, wide, wide) for s in range(len(size.dims))}
    kernels |= {"rpn_head/conv": (3, 3, wide, wide), "rpn_head/objects": (1, 1, wide, 3)}
    kernels |= {"rpn_head/deltas": (1, 1, wide, 12), "box_head/fc_0": (7 * 7 * wide, dense)}
    kernels |= {"box_head/fc_1": (dense, dense), "box_head/classifier": (dense, size.classes + 1)}
    kernels |= {"box_head/deltas": (dense, 4 * size.classes)}
    kernels |= {f"mask_head/conv_{c}": (3, 3, wide, wide) for c in range(size.convs)}
    kernels |= {"mask_head/upsample": (2, 2, wide, wide), "mask_head/classifier": (1, 1, wide, size.classes)}
    biases = {path: shape[2:3] if path == "mask_head/upsample" else shape[-1:] for path, shape in kernels.items()}
    return {f"{path}/kernel": shape for path, shape in kernels.items()} | {
        f"{path}/bias": shape for path, shape in biases.items()
    }


def upernet_shapes(size, wide, narrow):
    levels, last = range(len(size.dims) - 1), size.dims[-1]
    convolutions = {"decode_head/bottleneck": (3, last + size.pools * wide, wide)}
    convolutions |= {f"decode_head/pool_{p}": (1, last, wide) for p in range(size.pools)}
    convolutions |= {f"decode_head/lateral_{level}": (1, size.dims[level], wide) for level in levels}
    convolutions |= {f"decode_head/smooth_{level}": (3, wide, wide) for level in levels}
    convolutions |= {"decode_head/fusion": (3, len(size.dims) * wide, wide)}
    convolutions |= {"auxiliary_head/conv": (3, size.dims[-2], narrow)}
    shapes = {}
    for path, (side, before, after) in convolutions.items():
        shapes[f"{path}/conv/kernel"] = (side, side, before, after)
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        shapes |= {f"{path}/norm/{name}": (after,) for name in names}
    for head, before in (("decode_head", wide), ("auxiliary_head", narrow)):
        shapes |= {f"{head}/classifier/kernel": (before, size.classes), f"{head}/classifier/bias": (size.classes,)}
    return shapes


def block_shapes(prefix, c):
    return {
        f"{prefix}/depthwise/kernel": (7, 7, c, 1),
        f"{prefix}/depthwise/bias": (c,),
        f"{prefix}/norm/gamma": (c,),
        f"{prefix}/norm/beta": (c,),
        f"{prefix}/expand/kernel": (c, 4 * c),
        f"{prefix}/expand/bias": (4 * c,),
        f"{prefix}/grn/gamma": (4 * c,),
        f"{prefix}/grn/beta": (4 * c,),
        f"{prefix}/project/kernel": (4 * c, c),
        f"{prefix}/project/bias": (c,),
    }


def their_shapes(table, size, ours):
    """{name: shape} of a file in that format that holds those variables."""
    shapes = {}
    for pair in expand(table, size):
        if pair.ours in ours:
            shapes[pair.theirs] = CONVERSIONS[pair.conversion].inverse(np.empty(ours[pair.ours], "int8")).shape
    return shapes


@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_conversion_undoes_its_inverse(name):
    theirs = np.random.default_rng(0).normal(size=THEIR_SHAPES[name])
    conversion = CONVERSIONS[name]
    ours = conversion.forward(theirs)
    np.testing.assert_array_equal(conversion.inverse(ours), theirs)
    np.testing.assert_array_equal(conversion.forward(conversion.inverse(ours)), ours)
    assert theirs.ndim in conversion.ranks


def test_sparse_kernels_run_fastest_over_rows():
    kernel = np.arange(9 * 2).reshape(9, 2)
    ours = CONVERSIONS["sparse_depthwise"].forward(kernel)
    for row in range(3):
        for column in range(3):
            np.testing.assert_array_equal(ours[row, column, :, 0], kernel[column * 3 + row])


@pytest.mark.parametrize("shape", [(5,), (1, 5), (1, 1, 1, 5)])
def test_grn_is_accepted_in_all_three_shapes(shape):
    assert CONVERSIONS["grn"].forward(np.zeros(shape)).shape == (5,)


def test_grn_of_two_axes_is_refused():
    with pytest.raises(ValueError, match="only the last axis"):
        CONVERSIONS["grn"].forward(np.zeros((4, 5)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("table", READABLE, ids=lambda table: table.name)
def test_every_size_pairs_up_in_every_format(table, size):
    counts = {"pools": 4 if "decode_head" in table.parts else 0, "convs": 4 if "mask_head" in table.parts else 0}
    size = dataclasses.replace(size_of(size), **counts)
    ours = our_shapes(size, {pair.part for pair in expand(table, size)})
    theirs = their_shapes(table, size, ours)
    assert recognise(theirs, "the file") is table
    pairing = pair_up(table, theirs, ours, where="the file")
    assert sorted(pair.theirs for pair in pairing.pairs) == sorted(theirs)
    assert sorted(pair.ours for pair in pairing.pairs) == sorted(ours)
    assert not pairing.left_out and not pairing.untouched


def test_a_timm_file_of_tiny_has_the_published_number_of_tensors():
    size = size_of("tiny")
    timm = next(table for table in READABLE if table.name == "timm")
    assert len(their_shapes(timm, size, our_shapes(size))) == 200


def test_our_own_table_covers_every_kind_of_variable_once():
    counts = collections.Counter(row.ours for row in OWN.rows)
    assert max(counts.values()) == 1
    size = size_of("nano")
    assert measure(OWN, our_shapes(size, ("encoder", "norm", "head", "decoder", "norm_0", "norm_3"))) == size


def test_an_array_without_axes_is_measured_as_nothing():
    size = size_of("atto")
    shapes = their_shapes(READABLE[0], size, our_shapes(size))
    odd = shapes | {"stages.0.0.norm.weight": (), "head.bias": (), "downsample_layers.0.0.weight": ()}
    measured = measure(READABLE[0], odd)
    assert (measured.dims, measured.classes, measured.stem) == (size.dims, None, None)
    with pytest.raises(ValueError, match="stages.0.0.norm.weight|downsample_layers.0.0.weight"):
        pair_up(READABLE[0], odd, our_shapes(size), where="file")


@pytest.mark.parametrize("fault", ["missing", "renamed", "added"])
def test_a_name_too_few_or_too_many_is_named(fault):
    size = size_of("atto")
    official, ours = READABLE[0], our_shapes(size)
    theirs = their_shapes(official, size, ours)
    name = "stages.2.1.dwconv.weight"
    if fault == "added":
        theirs["stages.2.1.dwconv.scale"] = (1,)
        name = "stages.2.1.dwconv.scale"
    elif fault == "missing":
        del theirs[name]
    else:
        theirs["stages.2.1.dwconv.wieght"] = theirs.pop(name)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as error:
        pair_up(recognise(theirs, "file"), theirs, ours, where="file")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fault", ["missing", "added"])
def test_a_variable_too_few_or_too_many_is_named(fault):
    size = size_of("atto")
    ours = our_shapes(size)
    theirs = their_shapes(READABLE[0], size, ours)
    if fault == "added":
        ours["stage_1/block_0/depthwise/scale"] = (1,)
        path = "stage_1/block_0/depthwise/scale"
    else:
        path = "stage_1/block_0/grn/beta"
        del ours[path]
    with pytest.raises(ValueError, match=f"the model does not fit.*{path}"):
        pair_up(READABLE[0], theirs, ours, where="file")


def test_row_that_names_one_variable_twice_is_an_error():
    size = size_of("atto")
    ours = our_shapes(size)
    official = READABLE[0]
    doubled = type(official)("official", (*official.rows, official.rows[0]))
    with pytest.raises(ValueError, match=r"twice 'downsample_layers.0.0.weight'"):
        pair_up(doubled, their_shapes(official, size, ours), ours, where="file")


def test_arrays_of_nobody_are_an_unknown_format():
    with pytest.raises(ValueError, match="no format that can be read.*huggingface.*2 arrays: 'a', 'b'"):
        recognise({"a": (1,), "b": (2,)}, "file")
