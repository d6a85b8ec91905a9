import csv
import dataclasses

import keras
import numpy as np
import pytest

from keras_convnextv2.layers.visible import MaskedMap
from training import ablate, finetune, pretrain
from training.configs import Finetune, Pretrain

SMALL = {
    **{"size": "atto", "depths": (1, 1), "dims": (8, 12), "stem_patch_size": 2, "image_size": (16, 12), "crop": "none"},
    **{"batch_size": 8, "epochs": 1, "base_lr": 0.03},
}
CONFIGS = Pretrain(**SMALL, warmup_epochs=0.0, decoder_dim=8), Finetune(**SMALL, head_init_scale=1.0)


def quiet(text, progress=False):
    """Takes the lines of a run."""


def changed(kind):
    """(GRN's function, x, gamma, beta, epsilon) -> what the formula says, by numpy."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 15, 6)).astype("float32")
    gamma, beta = rng.normal(size=(2, 6)).astype("float32")
    function = ablate.BLOCKS.get(kind, ablate.grn_with())
    y = keras.ops.convert_to_numpy(function(*map(keras.ops.convert_to_tensor, (x, gamma, beta)), 1e-6))
    gelu = keras.ops.convert_to_numpy(keras.ops.gelu(x, approximate=False)).astype("float64")
    return y, gelu, gamma, beta


def test_the_default_variant_is_the_blocks_own_formula():
    y, gelu, gamma, beta = changed("default")
    norm = np.sqrt((gelu**2).sum(1, keepdims=True))
    expected = gamma * gelu * norm / (norm.mean(-1, keepdims=True) + 1e-6) + beta + gelu
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(
    "kind, response",
    [
        ("grn_l1", lambda x: abs(x).sum(1, keepdims=True) / abs(x).sum(1, keepdims=True).mean(-1, keepdims=True)),
        ("grn_mean_pool", lambda x: x.mean(1, keepdims=True) / x.mean(1, keepdims=True).mean(-1, keepdims=True)),
        ("grn_inverse", lambda x: 1 / np.sqrt((x**2).sum(1, keepdims=True)).mean(-1, keepdims=True)),
        ("grn_standardised", lambda x: _standardised(np.sqrt((x**2).sum(1, keepdims=True)))),
    ],
)
def test_a_variant_of_grn_is_what_it_is_called(kind, response):
    y, gelu, gamma, beta = changed(kind)
    np.testing.assert_allclose(y, gamma * gelu * response(gelu) + beta + gelu, rtol=2e-4, atol=2e-4)


def _standardised(g):
    return (g - g.mean(-1, keepdims=True)) / g.std(-1, keepdims=True)


def test_without_the_residual_only_the_response_is_left():
    whole, gelu, *_ = changed("default")
    np.testing.assert_allclose(changed("grn_no_residual")[0], whole - gelu, atol=1e-5)
    np.testing.assert_allclose(changed("grn_off")[0], gelu, atol=1e-6)


def outputs(model, images):
    return keras.ops.convert_to_numpy(model(images))


def test_a_changed_network_computes_something_else_and_the_v1_block_starts_as_the_identity():
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 12, 3)).astype("float32")
    _, logits = finetune.build(CONFIGS[1], 5, quiet)
    for block in ablate.blocks_of(logits):
        block.grn.gamma.assign(np.ones(block.grn.gamma.shape))
    before = outputs(logits, images)
    ablate.change_blocks(ablate.blocks_of(logits), "grn_off")
    assert abs(outputs(logits, images) - before).max() > 1e-4
    _, logits = finetune.build(CONFIGS[1], 5, quiet)
    block, x = ablate.blocks_of(logits)[0], np.random.default_rng(1).normal(size=(2, 8, 6, 8)).astype("float32")
    ablate.change_blocks([block], "v1_block")
    np.testing.assert_allclose(outputs(block, x), x, atol=1e-5)
    block.grn.gamma.assign(np.ones(32))
    assert abs(outputs(block, x) - x).max() > 1e-3


def fcmae_and_batch():
    fcmae = pretrain.build(CONFIGS[0])
    rng = np.random.default_rng(0)
    for variable in fcmae.trainable_variables:  # the first weights predict next to nothing
        variable.assign(rng.normal(0, 0.3, variable.shape).astype("float32"))
    images = rng.uniform(0, 255, (2, 16, 12, 3)).astype("float32")
    total, count = fcmae.visible_patches((16, 12))
    visible = np.sort([rng.permutation(total)[:count] for _ in range(2)], axis=1).astype("int32")
    return fcmae, {"images": images, "visible": visible}


def test_the_loss_on_all_patches_is_the_mean_of_hidden_and_visible_ones():
    fcmae, batch = fcmae_and_batch()
    losses = keras.ops.convert_to_numpy(ablate.losses_on_all_patches(fcmae, batch))
    prediction = keras.ops.convert_to_numpy(fcmae(batch))
    target = keras.ops.convert_to_numpy(fcmae._target(fcmae._cut(batch["images"]))[0])
    np.testing.assert_allclose(losses, ((prediction - target) ** 2).mean((1, 2)), rtol=1e-4)
    assert abs(losses - keras.ops.convert_to_numpy(fcmae.sample_losses(**batch))).max() > 1e-3


def test_an_encoder_without_masks_is_another_one_only_by_its_masks(monkeypatch):
    fcmae, batch = fcmae_and_batch()
    masked = keras.ops.convert_to_numpy(fcmae.sample_losses(**batch, dense=True))
    monkeypatch.setattr(ablate, "Unmasked", MaskedMap)
    losses = keras.ops.convert_to_numpy(ablate.losses_without_masks_inside(fcmae, batch))
    np.testing.assert_allclose(losses, masked, rtol=1e-4)


def test_without_masks_inside_what_stands_at_hidden_places_changes_the_visible_ones():
    fcmae, batch = fcmae_and_batch()
    losses = keras.ops.convert_to_numpy(ablate.losses_without_masks_inside(fcmae, batch))
    masked = keras.ops.convert_to_numpy(fcmae.sample_losses(**batch, dense=True))
    assert losses.shape == masked.shape and abs(losses - masked).max() > 1e-3


def test_variants_name_what_is_there():
    known = {"", "v1_block", *ablate.BLOCKS, *ablate.LOSSES}
    for name, variant in ablate.VARIANTS.items():
        assert {variant.pretrain, variant.finetune} <= known, name
        assert (variant.paper is None) == (not variant.source), name


@pytest.mark.slow  # JAX compiles a dozen programs
def test_the_grid_writes_a_table_and_is_gone_on_with(tmp_path):
    names = ["default", "grn_only_finetune", "v1_block"]
    args = (tmp_path / "grid", "shapes:16", CONFIGS, quiet)
    found = ablate.ablate(names, 1, *args)
    assert list(found) == names
    files = {path.name for path in (tmp_path / "grid").iterdir()}
    assert {"pretrain_grn_off_seed_0", "grn_only_finetune_seed_0", "table.csv", "table.md"} <= files
    lines = []
    longer = ablate.ablate(names[:1], 2, *args[:3], lambda text, progress=False: lines.append(text))
    assert longer["default"][0] == found["default"][0]
    assert [line for line in lines if line.startswith("--")] == ["-- default, seed 0", "-- default, seed 1"]
    taken = [line.split("/")[-1] for line in lines if line.endswith("is complete: taken as it is")]
    assert taken == [f"{run}default_seed_0 is complete: taken as it is" for run in ("pretrain_", "")]
    with open(tmp_path / "grid" / "table.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["variant"], row["seeds"], row["Base on ImageNet-1K in the paper"]) == ("default", "2", "84.6")
    assert float(row["top-1 here"]) == pytest.approx(sum(longer["default"]) / 2, abs=0.006)


def test_an_unknown_variant_names_the_closest(tmp_path):
    with pytest.raises(ValueError, match="--variants must name variants. Received: 'grn_of'. Closest: grn_off"):
        ablate.ablate(["grn_of"], 1, tmp_path, "shapes:16", CONFIGS, quiet)


def test_settings_of_a_variant_reach_its_pre_training(tmp_path):
    seen = []
    original = ablate.once
    try:
        ablate.once = lambda prepare, config, *_, **__: seen.append(config) or {"top_1": 1.0}
        ablate.ablate(["mask_0.5"], 1, tmp_path, "shapes:16", CONFIGS, quiet)
    finally:
        ablate.once = original
    assert seen[0] == dataclasses.replace(CONFIGS[0], mask_ratio=0.5)
    assert seen[1].init == str(tmp_path / "pretrain_mask_ratio_0.5_seed_0")


def test_no_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--seeds must be at least 1. Received: 0"):
        ablate.ablate(["default"], 0, tmp_path / "grid", "shapes", {}, print)
    assert not (tmp_path / "grid").exists()
