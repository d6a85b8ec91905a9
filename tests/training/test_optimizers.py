import json
import os
import pathlib
import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from training.optimizers import (
    AdamW,
    addressed,
    finetune_rules,
    learning_rate,
    matched,
    pretrain_rules,
)

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "adamw.npz")
ORACLE = os.environ.get("KERAS_CONVNEXTV2_ORACLE")
to_numpy = ops.convert_to_numpy
BETAS = {"finetune": (0.9, 0.999), "pretrain": (0.9, 0.95)}


def golden_run(name, how):
    """Weights and slots after the golden steps, by `model.fit`'s route ("apply") or the training step's ("updated")."""
    weights = [keras.Variable(row, name=f"row_{i}") for i, row in enumerate(GOLDEN["start"])]
    beta_1, beta_2 = BETAS[name]
    adamw = AdamW(float(GOLDEN["rate"]), weight_decay=float(GOLDEN["decay"]), beta_1=beta_1, beta_2=beta_2)
    adamw.build(weights)
    groups = (weights, adamw.first, adamw.second)
    for gradients in GOLDEN["gradients"]:
        gradients = [ops.convert_to_tensor(g) for g in gradients]
        if how == "apply":
            adamw.apply(gradients, weights)
            continue
        values = [[ops.convert_to_tensor(v) for v in group] for group in groups]
        news = adamw.updated(*values, gradients, adamw.iterations, float(GOLDEN["rate"]))
        for group, new in zip(groups, news, strict=True):
            for variable, value in zip(group, new, strict=True):
                variable.assign(value)
        adamw.iterations.assign(adamw.iterations + 1)
    return adamw, [np.stack([to_numpy(v) for v in group]) for group in groups]


@pytest.mark.parametrize("how", ["apply", "updated"])
@pytest.mark.parametrize("name", ["finetune", "pretrain"])
def test_adamw_has_the_numbers_of_torch(name, how):
    adamw, (weights, first, second) = golden_run(name, how)
    assert type(adamw) is AdamW  # not exchanged for a fused variant of the backend
    np.testing.assert_allclose(weights, GOLDEN[f"{name}_weights"], rtol=0, atol=5e-7)
    # slots are tiny numbers: compare them relatively, with the largest of each row as the yardstick
    for slot, expected in ((first, GOLDEN[f"{name}_exp_avg"]), (second, GOLDEN[f"{name}_exp_avg_sq"])):
        largest = np.abs(expected).max(axis=1, keepdims=True)
        np.testing.assert_allclose(slot / largest, expected / largest, rtol=0, atol=1e-6)


def test_rules_reach_a_network_that_is_built_on_somebody_elses_tensor():
    """Its layers carry its name; what is not ours keeps the path that it has."""
    rules = (*finetune_rules((1, 2), 0.9), ("own/(kernel|bias)", 0.5, False))
    options = {"classes": 3, "name": "inner"}
    alone = kc.ConvNeXtV2((1, 2), (4, 6), input_shape=(16, 16, 3), **options)
    images = keras.Input((16, 16, 5))
    mixed = keras.layers.Conv2D(3, 1, name="own")(images)
    behind = kc.ConvNeXtV2((1, 2), (4, 6), input_tensor=mixed, **options)
    rows = {}
    for model in (alone, behind):
        adamw = AdamW(rules=addressed(rules, model))
        adamw.build(model.trainable_variables)
        paths = [v.path.removeprefix("inner_") for v in model.trainable_variables]
        rows[model] = dict(zip(paths, zip(adamw.multipliers, adamw.decays, strict=True), strict=True))
    own = {path: rows[behind].pop(path) for path in ("own/kernel", "own/bias")}
    assert set(own.values()) == {(0.5, 0.0)} and rows[behind] == rows[alone]
    assert len(set(rows[alone].values())) > 5


def test_adamw_config_keeps_every_argument():
    rules = ((r"norm/gamma", 0.5, False),)
    given = {"learning_rate": 0.01, "weight_decay": 0.3, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-7}
    config = AdamW.from_config({**AdamW(**given, rules=rules).get_config()}).get_config()
    assert {key: config[key] for key in given} == pytest.approx(given)
    assert config["rules"] == rules


def test_multiplier_and_decay_reach_the_update():
    variables = [keras.Variable(np.ones(3, "float32"), name=name) for name in ("a", "b", "c")]
    rules = (("a", 1.0, True), ("b", 0.5, False), ("c", 0.0, True))
    adamw = AdamW(0.1, weight_decay=0.5, rules=rules)
    adamw.apply([ops.ones(3)] * 3, variables)
    # the first Adam step is lr * multiplier, whatever the gradient; decay takes lr * 0.5 of the weight
    for variable, expected in zip(variables, (1 - 0.05 - 0.1, 1 - 0.05, 1.0), strict=True):
        np.testing.assert_allclose(to_numpy(variable), expected, atol=1e-6)


@pytest.mark.parametrize("step, expected", [(0, 0.0), (5, 0.5), (10, 1.0), (35, 0.55), (60, 0.1)])
def test_schedule_at_its_corners(step, expected):
    rate = learning_rate(step, peak=1.0, total_steps=60, warmup_steps=10, floor=0.1)
    assert rate == pytest.approx(expected, abs=1e-12)


def test_schedule_without_warmup_starts_at_the_peak_and_nears_the_floor():
    rates = [learning_rate(step, peak=2.0, total_steps=100) for step in range(100)]
    assert rates[0] == 2.0
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 1e-3


def weight_paths(depths, head=True):
    """Every path of a backbone, as the model names them."""
    block = ["depthwise/kernel", "depthwise/bias", "norm/gamma", "norm/beta", "expand/kernel", "expand/bias"]
    block += ["grn/gamma", "grn/beta", "project/kernel", "project/bias"]
    ends = ["conv/kernel", "conv/bias", "norm/gamma", "norm/beta"]
    paths = [f"stem/{end}" for end in ends]
    for stage, depth in enumerate(depths):
        paths += [f"stage_{stage}/downsample/{end}" for end in ends if stage]
        paths += [f"stage_{stage}/block_{b}/{end}" for b in range(depth) for end in block]
    return paths + (["norm/gamma", "norm/beta", "head/kernel", "head/bias"] if head else [])


def official_name(path):
    """The released checkpoint's name of one of our paths."""
    ends = {"depthwise": "dwconv", "expand": "pwconv1", "project": "pwconv2", "norm": "norm", "grn": "grn"}
    *front, last = path.split("/")
    scale = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}[last]
    if front in (["norm"], ["head"]):
        return f"{front[0]}.{scale}"
    if front[0] == "stem":
        return f"downsample_layers.0.{['conv', 'norm'].index(front[1])}.{scale}"
    stage = front[0].removeprefix("stage_")
    if front[1] == "downsample":
        return f"downsample_layers.{stage}.{['norm', 'conv'].index(front[2])}.{scale}"
    end = last if front[2] == "grn" else scale
    return f"stages.{stage}.{front[1].removeprefix('block_')}.{ends[front[2]]}.{end}"


@pytest.mark.skipif(not ORACLE, reason="needs KERAS_CONVNEXTV2_ORACLE")
@pytest.mark.parametrize("size", ["tiny", "base"])
def test_ladders_equal_the_official_ones(size):
    expected = json.loads((pathlib.Path(ORACLE) / "layer_decay_expected.json").read_text())[size]
    paths = weight_paths(expected["depths"])
    rules = finetune_rules(expected["depths"], expected["layer_decay"], expected["type"])
    ours = dict(zip(map(official_name, paths), matched(rules, paths), strict=True))
    theirs = expected["parameters"]
    assert set(ours) == set(theirs)
    for name, row in theirs.items():
        assert ours[name] == (pytest.approx(row["lr_scale"], rel=1e-12), row["weight_decay"]), name


@pytest.mark.parametrize("ladder, stem, downsample_3", [("single", 0.9**18, 0.729), ("group", 0.9**13, 0.9)])
def test_ladder_values_of_tiny(ladder, stem, downsample_3):
    paths = ["stem/conv/kernel", "stage_3/downsample/conv/kernel", "head/kernel"]
    found = [multiplier for multiplier, _ in matched(finetune_rules([3, 3, 9, 3], 0.9, ladder), paths)]
    assert found == pytest.approx([stem, downsample_3, 1.0])


def test_unknown_ladder_names_the_known_ones():
    with pytest.raises(ValueError, match=r"one of \('single', 'group'\). Received: 'pairs'"):
        finetune_rules([3, 3, 9, 3], 0.9, "pairs")


def test_group_ladder_needs_four_stages():
    with pytest.raises(ValueError, match=r"needs four stages. Received: depths=\[1, 2\]. Try 'single'"):
        finetune_rules([1, 2], 0.9, "group")


@pytest.mark.parametrize("decay_grn", [False, True])
def test_pretraining_table_covers_encoder_and_decoder(decay_grn):
    paths = weight_paths([1, 1, 2, 1], head=False) + ["decoder/proj/kernel", "decoder/proj/bias", "decoder/mask_token"]
    paths += ["decoder/block_0/grn/gamma", "decoder/block_0/norm/beta", "decoder/block_0/expand/kernel"]
    paths += ["decoder/pred/kernel", "decoder/pred/bias"]
    rows = dict(zip(paths, matched(pretrain_rules(decay_grn), paths), strict=True))
    assert {multiplier for multiplier, _ in rows.values()} == {1.0}
    for path, (_, decayed) in rows.items():
        special = "grn/" in path or path.endswith("mask_token")
        assert decayed == (path.endswith("kernel") or (special and decay_grn)), path


def test_uncovered_weights_are_listed():
    with pytest.raises(ValueError, match=re.escape("no row for ['neck/kernel'] (1 of 2 weights)")):
        matched(finetune_rules([1, 1, 1, 1]), ["stem/conv/kernel", "neck/kernel"])


def test_a_weight_with_two_rows_is_an_error():
    with pytest.raises(ValueError, match=re.escape("several rows for ['a/kernel']")):
        matched((("a/kernel", 1.0, True), (".*kernel", 1.0, False)), ["a/kernel"])
