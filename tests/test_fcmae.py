"""FCMAE: sparse equals masked dense, and what fit, reconstruct and the backbone promise."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from tests.gradients import gradients_of, values_of

BACKEND = keras.backend.backend()
to_numpy = ops.convert_to_numpy


def small_fcmae(channels=3, stem=4, size=(32, 48), **kwargs):
    backbone = kc.ConvNeXtV2((1, 1), (8, 12), include_top=False, input_shape=(*size, channels), stem_patch_size=stem)
    model = kc.FCMAE(backbone, **{"decoder_dim": 12, "seed": 3, **kwargs})
    rng = np.random.default_rng(1)
    for v in model.trainable_variables:
        v.assign(rng.normal(size=v.shape) * 0.3 + (1.0 if v.path.endswith("norm/gamma") else 0.0))
    return model


def pictures(count=3, size=(32, 48), channels=3):
    return np.random.default_rng(0).uniform(0, 255, (count, *size, channels)).astype("float32")


def assert_close(a, b, tolerance, name=""):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-6), err_msg=name)


CASES = {
    "wide": {},
    "two positions a patch side, deep decoder": {"patch_size": 16, "decoder_depth": 2, "mask_ratio": 0.8},
    "stem 2, one channel, plain pixels": {"stem": 2, "channels": 1, "mask_ratio": 0.3, "norm_pix_loss": False},
    "four channels": {"channels": 4},
}


# The fast kernels of the running backend; the plain ones equal them in a test of their own.
@pytest.mark.parametrize("case", CASES)
def test_sparse_equals_masked_dense(case):
    model = small_fcmae(**CASES[case])
    images = ops.convert_to_tensor(pictures(channels=model.channels))
    visible = model.draw_visible(images)
    total, count = model.visible_patches(images.shape[1:3])
    assert visible.shape == (3, count) and count < total

    def everything():
        prediction = model({"images": images, "visible": visible})
        return {
            "encoded": [model.encode(images, visible, dense=dense) for dense in (False, True)],
            "losses": [model.sample_losses(images, visible, dense=dense) for dense in (False, True)],
            "prediction": prediction,
            "loss": model.reconstruction_loss(images, prediction, visible),
        }

    values = keras.tree.map_structure(to_numpy, values_of(everything, model))
    assert values["prediction"].shape == (3, total, model.patch_size**2 * model.channels)
    for name in ("encoded", "losses"):
        assert_close(*values[name], 1e-5, name)
    assert_close(values["loss"], values["losses"][0].mean(), 1e-5)

    gradients = [
        gradients_of(lambda dense=dense: ops.mean(model.sample_losses(images, visible, dense=dense)), model)
        for dense in (False, True)
    ]
    for path, dense in gradients[1].items():
        assert np.abs(dense).max() > 0, path
        assert_close(gradients[0][path], dense, 1e-4, path)


def test_hidden_pixels_change_nothing_but_the_target():
    model = small_fcmae()
    images = pictures()
    visible = to_numpy(model.draw_visible(ops.convert_to_tensor(images)))
    stays = to_numpy(model._patches(images, visible, dense=True).mask(model.patch_size))
    other = images * stays + (255 - images) * (1 - stays)
    np.testing.assert_array_equal(
        to_numpy(model({"images": images, "visible": visible})), to_numpy(model({"images": other, "visible": visible}))
    )
    encoded = to_numpy(model.encode(images, visible))
    positions = to_numpy(model._patches(images, visible, dense=True).mask(1))
    assert not np.any(encoded * (1 - positions)) and np.abs(encoded).min(where=positions > 0, initial=1) > 0


def test_masks_are_sorted_distinct_repeatable_and_even():
    draws = [small_fcmae(seed=7) for _ in range(2)]
    images = ops.zeros((600, 32, 48, 3))
    masks = [to_numpy(model.draw_visible(images)) for model in draws]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (np.diff(masks[0], axis=1) > 0).all()
    assert not np.array_equal(masks[0], to_numpy(draws[0].draw_visible(images)))
    share = np.bincount(masks[0].ravel(), minlength=24) / 600
    assert np.abs(share - masks[0].shape[1] / 24).max() < 0.09


@pytest.mark.parametrize("jit", {"tensorflow": [False, True], "jax": [True], "torch": [False]}[BACKEND])
def test_fit_with_an_unknown_batch_size_and_a_smaller_last_batch(jit):
    model = small_fcmae()
    model.compile(keras.optimizers.AdamW(2e-3), jit_compile=jit)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        data = {"x": tf.data.Dataset.from_tensor_slices(pictures(5)).batch(3)}
    else:
        data = {"x": pictures(5), "batch_size": 3}
    losses = model.fit(**data, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_fit_takes_masks_given_with_the_images():
    model = small_fcmae()
    model.compile("sgd")
    images = pictures(4)
    visible = to_numpy(model.draw_visible(ops.convert_to_tensor(images)))
    expected = to_numpy(ops.mean(model.sample_losses(images, visible)))
    loss = model.fit({"images": images, "visible": visible}, batch_size=4, verbose=0).history["loss"][0]
    assert loss == pytest.approx(expected, rel=1e-5)


def test_mixed_precision_keeps_the_loss_in_float32():
    keras.utils.set_random_seed(1)
    backbone = kc.ConvNeXtV2((1, 1), (8, 12), include_top=False, input_shape=(32, 48, 3), dtype="mixed_bfloat16")
    model = kc.FCMAE(backbone, decoder_dim=8)
    losses = model.sample_losses(pictures(2, (32, 48)), model.draw_visible(ops.zeros((2, 32, 48, 3))))
    assert keras.backend.standardize_dtype(losses.dtype) == "float32"
    assert np.isfinite(to_numpy(losses)).all()


def test_an_unsorted_mask_is_the_same_mask():
    model = small_fcmae()
    visible = np.array([[5, 0, 11, 7], [3, 2, 1, 0], [9, 23, 4, 8]], "int32")
    encoded = [to_numpy(model.encode(pictures(), v)) for v in (visible, np.sort(visible, axis=1))]
    np.testing.assert_array_equal(*encoded)


def test_reconstruct_pastes_visible_patches_and_returns_pictures():
    model = small_fcmae()
    images = pictures()
    visible = to_numpy(model.draw_visible(ops.convert_to_tensor(images)))
    pasted = model.reconstruct(images, visible)
    stays = to_numpy(model._patches(images, visible, dense=True).mask(model.patch_size)).astype(bool)
    assert pasted.shape == images.shape and pasted.dtype == np.float32
    np.testing.assert_allclose(pasted * stays, images * stays, rtol=0, atol=1e-3)
    assert pasted.min() >= 0 and pasted.max() <= 255
    assert not np.allclose(pasted, images, atol=1)


def test_a_perfect_prediction_reconstructs_the_picture_and_costs_nothing(monkeypatch):
    model = small_fcmae(patch_size=16)
    images = ops.convert_to_tensor(pictures())
    visible = model.draw_visible(images)
    target = model._target(model._cut(images))[0]
    assert float(model.reconstruction_loss(images, target, visible)) < 1e-12  # 0 but for rounding
    monkeypatch.setattr(type(model), "__call__", lambda self, inputs, training=None: target)
    np.testing.assert_allclose(model.reconstruct(images, visible), to_numpy(images), rtol=0, atol=1e-2)


def test_the_backbone_shares_its_weights_and_is_saved_by_itself(tmp_path):
    model = small_fcmae()
    model.compile("sgd")
    before = model.backbone.get_weights()
    model.fit(pictures(2), verbose=0)
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.backbone.get_weights(), strict=True))
    model.backbone.save(tmp_path / "backbone.keras")
    with pytest.warns(UserWarning, match="new in 'convnextv2': head and norm"):
        classifier = kc.ConvNeXtV2((1, 1), (8, 12), classes=4, input_shape=(32, 48, 3), weights=model)
    loaded = keras.saving.load_model(tmp_path / "backbone.keras")
    encoder = keras.Model(classifier.input, classifier.get_layer("stage_1").output)
    np.testing.assert_array_equal(to_numpy(loaded(pictures())), to_numpy(encoder(pictures())))


def test_keras_file_round_trip(tmp_path):
    model = small_fcmae(patch_size=16, mask_ratio=0.5, norm_pix_loss=False)
    model.save(tmp_path / "fcmae.keras")
    loaded = keras.saving.load_model(tmp_path / "fcmae.keras")
    own = {k: v for k, v in model.get_config().items() if k != "backbone"}
    assert {k: v for k, v in loaded.get_config().items() if k != "backbone"} == own
    visible = model.draw_visible(ops.convert_to_tensor(pictures()))
    np.testing.assert_array_equal(
        to_numpy(model({"images": pictures(), "visible": visible})),
        to_numpy(loaded({"images": pictures(), "visible": visible})),
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mask_ratio": 60}, r"mask_ratio must be in \(0, 1\). Received: 60. Did you mean 0.6?"),
        ({"mask_ratio": 0.0}, r"mask_ratio must be in \(0, 1\). Received: 0.0"),
        ({"patch_size": 12}, "patch_size must be a multiple of the backbone's total stride 8. Received: 12"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_fcmae(**arguments)


@pytest.mark.parametrize(
    "size, ratio, message",
    [
        ((60, 96), 0.6, r"\(60, 96\) is not divisible by the patch size 8. Nearest sizes: \(56, 96\), \(64, 96\)"),
        ((20, 32), 0.6, r"\(20, 32\) is not divisible by the patch size 8. Nearest sizes: \(16, 32\), \(24, 32\)"),
        ((16, 8), 0.6, "leaves no visible patch of 2"),
        ((8, 8), 0.4, "leaves no"),
    ],
)
def test_images_that_cannot_be_masked_are_named(size, ratio, message):
    with pytest.raises(ValueError, match=message):
        small_fcmae(mask_ratio=ratio, size=size)
