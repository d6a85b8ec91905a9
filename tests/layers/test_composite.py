"""What is set on a layer, or on a part of one, survives files and clones: frozen, quantized, LoRA, plain arguments."""

import copy

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc

to_numpy = ops.convert_to_numpy


def mini(**options):
    return kc.ConvNeXtV2((1, 2), (4, 6), **{"input_shape": (16, 24, 3), "classes": 3, **options})


def pictures(count=2):
    return np.random.default_rng(0).uniform(0, 255, (count, 16, 24, 3)).astype("float32")


def by_file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


WAYS = {
    "file": by_file,
    "clone": lambda model, tmp_path: keras.models.clone_model(model),
    "deepcopy": lambda model, tmp_path: copy.deepcopy(model),
}


def trainable(model):
    return [v.trainable for v in model.weights]


def whole(model):
    model.trainable = False


def one_block(model):
    model.get_layer("stage_1").blocks[0].trainable = False


def all_but_a_norm(model):
    model.get_layer("stage_1").trainable = False
    model.get_layer("stage_1").blocks[1].norm.trainable = True


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("freeze, left", [(whole, 0), (one_block, 32), (all_but_a_norm, 20)])
def test_frozen_layers_stay_frozen(tmp_path, way, freeze, left):
    model = mini()
    freeze(model)
    again = WAYS[way](model, tmp_path)
    flags, kept = (
        [layer.trainable for layer in each._flatten_layers(include_self=False) if layer.weights]
        for each in (model, again)
    )
    assert kept == flags
    assert trainable(again) == trainable(model)
    assert len(again.trainable_variables) == left


@pytest.mark.parametrize("way", ["file", "clone"])
def test_a_frozen_backbone_in_a_sequential_stays_frozen(tmp_path, way):
    backbone = mini(include_top=False, pooling="avg")
    backbone.trainable = False
    model = keras.Sequential([keras.Input((16, 24, 3)), backbone, keras.layers.Dense(2)])
    assert len(model.trainable_variables) == 2
    assert len(WAYS[way](model, tmp_path).trainable_variables) == 2


def test_an_fcmae_keeps_what_is_frozen(tmp_path):
    fcmae = kc.FCMAE(mini(include_top=False), decoder_dim=8, decoder_depth=2)
    fcmae.backbone.get_layer("stage_0").trainable = False
    fcmae.decoder.blocks[1].trainable = False
    again = by_file(fcmae, tmp_path)
    assert trainable(again) == trainable(fcmae)
    fcmae.trainable = False
    assert by_file(fcmae, tmp_path).trainable_variables == []


def test_settings_of_a_part_that_is_not_there_are_refused():
    with pytest.raises(ValueError, match=r"parts must be among \['depthwise', .* Received: \['attention'\]"):
        kc.ConvNeXtV2Block(4, parts={"attention": {"trainable": False}})


def dense_layers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dense)]


def test_lora_trains_and_merges(tmp_path):
    model = mini()
    for layer in dense_layers(model):
        layer.enable_lora(2)
    kernel = to_numpy(model.get_layer("stage_1").blocks[0].expand._kernel)
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    before = model.predict(pictures(), verbose=0)
    model.fit(pictures(), np.arange(2), epochs=3, verbose=0)
    after = model.predict(pictures(), verbose=0)
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_array_equal(to_numpy(model.get_layer("stage_1").blocks[0].expand._kernel), kernel)
    again = by_file(model, tmp_path)  # Keras stores the product with the kernel
    np.testing.assert_allclose(again.predict(pictures(), verbose=0), after, rtol=0, atol=1e-6)
    assert dense_layers(again)[0].lora_rank == 2


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_int8_predicts(tmp_path):
    model = mini()
    rng = np.random.default_rng(1)
    model.set_weights([w + 0.2 * rng.normal(size=w.shape) for w in model.get_weights()])
    before = model.predict(pictures(), verbose=0)
    model.quantize("int8")
    assert [layer.quantization_mode for layer in dense_layers(model)] == ["int8"] * 7
    after = model.predict(pictures(), verbose=0)
    assert 0 < np.abs(after - before).max() < 0.05
    again = by_file(model, tmp_path)
    np.testing.assert_allclose(again.predict(pictures(), verbose=0), after, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", ["file", "clone"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float32"])
def test_the_policy_of_a_model_survives(tmp_path, way, policy):
    model = mini(dtype=policy)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(pictures(), np.arange(2), verbose=0)  # else Keras cannot restore the optimizer, and warns
    again = WAYS[way](model, tmp_path)
    assert again.dtype_policy.name == policy and not again.autocast
    scaled = isinstance(again.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again.predict(pictures(), verbose=0), model.predict(pictures(), verbose=0))


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_a_pure_half_policy_predicts_and_trains(policy):
    model = mini(dtype=policy)
    eager = to_numpy(ops.cast(model(pictures()), "float32"))
    assert np.isfinite(eager).all()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(pictures(), np.arange(2), verbose=0)
    assert all(np.isfinite(w.astype("float32")).all() for w in model.get_weights())


def test_numpy_values_make_the_model_that_plain_ones_make(tmp_path):
    mean, std = (0.25, 0.5, 0.75), (0.5, 1.0, 2.0)
    given = kc.ConvNeXtV2(
        np.array((1, 2)),
        np.array((4, 6)),
        input_shape=np.array((16, 24, 3)),
        classes=np.int64(3),
        drop_path_rate=np.float32(0.5),
        head_init_scale=np.float64(0.5),
        stem_patch_size=np.int32(2),
        mean=np.array(mean),
        std=ops.convert_to_tensor(std),
        seed=np.int64(7),
    )
    said = kc.ConvNeXtV2(
        (1, 2),
        (4, 6),
        input_shape=(16, 24, 3),
        classes=3,
        drop_path_rate=0.5,
        head_init_scale=0.5,
        stem_patch_size=2,
        mean=mean,
        std=std,
        seed=7,
    )
    assert given.to_json() == said.to_json()
    again = by_file(given, tmp_path)
    np.testing.assert_array_equal(again.predict(pictures(), verbose=0), given.predict(pictures(), verbose=0))


def test_an_fcmae_takes_numpy_values(tmp_path):
    backbone = mini(include_top=False)
    fcmae = kc.FCMAE(
        backbone,
        patch_size=np.int64(8),
        mask_ratio=np.float64(0.5),
        decoder_dim=np.int32(8),
        decoder_depth=np.int64(2),
        norm_pix_loss=np.bool_(False),
        seed=np.int64(3),
    )
    again = by_file(fcmae, tmp_path)
    for name in ("patch_size", "mask_ratio", "decoder_dim", "decoder_depth", "norm_pix_loss", "seed"):
        assert getattr(again, name) == getattr(fcmae, name)
        assert type(getattr(fcmae, name)) in (int, float, bool)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="hooks are torch's")
def test_hooks_on_the_parts_of_a_block_fire():
    block = kc.ConvNeXtV2Block(4)
    seen = []
    x = pictures()[..., :1].repeat(4, axis=-1)
    expected = to_numpy(block(x))
    for part in (block.depthwise, block.norm, block.expand, block.grn, block.project, block.drop):
        part.register_forward_hook(lambda part, inputs, output: seen.append(part.name))
    np.testing.assert_array_equal(to_numpy(block(x)), expected)
    assert seen == ["depthwise", "norm", "expand", "grn", "project", "drop_path"]
