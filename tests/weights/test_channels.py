"""A stem for other channels than the file's: adapted, with one warning, and a grey picture means the same."""

import warnings

import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2.weights import apply_weights
from keras_convnextv2.weights.channels import adapted_stem
from tests.weights.small_files import arrays_in, assert_same, network, values, write

pytest.importorskip("safetensors")

STEM = {"stem/conv/kernel", "stem/conv/bias"}
DECODER = "a decoder predicts pixels, of 3 channels in the file and 1 in the model"


def loaded(model, path, *words):
    """The report, after one warning of one line that holds the words."""
    with pytest.warns(UserWarning, match="has a stem for") as said:
        report = kc.load_weights(model, path)
    messages = [str(warning.message) for warning in said if "stem" in str(warning.message)]
    assert len(messages) == 1 and "\n" not in messages[0]
    for word in (str(path), *words):
        assert word in messages[0], messages[0]
    return report


@pytest.fixture(scope="module")
def file(source, tmp_path_factory):
    return write(tmp_path_factory.mktemp("channels") / "model.safetensors", arrays_in("official", source))


@pytest.mark.parametrize("normalised_inside", [True, False])
def test_a_grey_picture_gives_what_its_three_equal_channels_gave(oracle, normalised_inside):
    options = {"classes": 7, "classifier_activation": None, "include_preprocessing": normalised_inside}
    colour, grey = (kc.ConvNeXtV2((1, 1, 2, 1), (8, 16, 24, 32), input_shape=(64, 96, c), **options) for c in (3, 1))
    kc.load_weights(colour, oracle / "mini_official.pt")
    folded = "the difference of the normalisations folded in"
    report = loaded(grey, oracle / "mini_official.pt", "3 channels", "for 1", "the sum over its 3 channels")
    assert set(report.adapted) == STEM and (folded in repr(report)) == normalised_inside
    picture = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 1)).astype("float32")
    if not normalised_inside:
        picture = picture / 60 - 2
    expected = colour.predict_on_batch(np.repeat(picture, 3, axis=-1))
    np.testing.assert_allclose(grey.predict_on_batch(picture), expected, rtol=0, atol=2e-5)


def test_own_statistics_of_a_grey_model_are_folded_too(source):
    options = {"classifier_activation": None}
    colour = network(mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3), weights=source, **options)
    with pytest.warns(UserWarning, match=f"model {colour.name!r} has a stem for 3 channels"):
        grey = network(input_shape=(16, 24, 1), mean=0.4, std=0.2, weights=colour, **options)
    picture = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 1))
    expected = colour.predict_on_batch(np.repeat(picture, 3, axis=-1))
    np.testing.assert_allclose(grey.predict_on_batch(picture), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_more_channels_repeat_the_files_and_rescale_them(source, file, channels):
    model = network(input_shape=(16, 24, channels))
    report = loaded(model, file, f"for {channels}", "3 channels repeated in turn", f"scaled by 3 / {channels}")
    kernel, before = values(model)["stem/conv/kernel"], values(source)["stem/conv/kernel"]
    for k in range(channels):
        np.testing.assert_allclose(kernel[:, :, k], before[:, :, k % 3] * 3 / channels, rtol=1e-6)
    assert_same(model, values(source), untouched={"stem/conv/kernel"})
    assert sorted(report.loaded) == sorted(values(model))


def test_three_channels_from_one(tmp_path):
    grey = network(input_shape=(16, 24, 1))
    grey.save_weights(tmp_path / "grey.weights.h5")
    model = network()
    loaded(model, tmp_path / "grey.weights.h5", "for 1 channels", "for 3")
    np.testing.assert_allclose(
        values(model)["stem/conv/kernel"].sum(axis=2), values(grey)["stem/conv/kernel"][:, :, 0], rtol=1e-5
    )


@pytest.mark.parametrize("ending", [".safetensors", ".weights.h5", ".keras"])
def test_a_decoder_is_left_alone(tmp_path, fcmae, ending):
    path = tmp_path / f"fcmae{ending}"
    if ending == ".safetensors":
        write(path, arrays_in("official script", fcmae))
    else:
        fcmae.save_weights(path) if "h5" in ending else fcmae.save(path)
    model = kc.FCMAE(network(input_shape=(16, 24, 1), include_top=False), decoder_dim=12, decoder_depth=2)
    before = values(model)
    report = loaded(model, path, f"the model's decoder is left as it is: {DECODER}")
    decoder = {name for name in before if name.startswith("decoder/")}
    assert set(report.untouched) == decoder and set(report.untouched.values()) == {DECODER}
    assert len(report.left_out) == 15 and set(report.left_out.values()) == {DECODER}
    for name in decoder:
        np.testing.assert_array_equal(values(model)[name], before[name], err_msg=name)
    assert_same(model, values(fcmae), untouched=decoder | STEM)


def test_a_model_gives_its_encoder_to_one_of_other_channels(fcmae):
    model = network(input_shape=(16, 24, 4))
    with pytest.warns(UserWarning, match="scaled by 3 / 4"):
        report = apply_weights(model, fcmae)
    assert set(report.adapted) == STEM
    assert_same(model, values(fcmae), untouched={"stem/conv/kernel", *report.untouched})


def test_the_same_channels_are_not_touched(source, file, recwarn):
    assert not kc.load_weights(network(), file).adapted
    assert not [warning for warning in recwarn if "stem" in str(warning.message)]


def test_a_warning_that_is_an_error_leaves_the_model_alone(file):
    model = network(input_shape=(16, 24, 1))
    before = values(model)
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="stem for 3 channels"):
        warnings.simplefilter("error")
        kc.load_weights(model, file)
    assert_same(model, before)


def test_folding_is_exact_in_float64():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(2, 2, 3, 5)), rng.normal(size=5)
    theirs, ours = ((0.1, 0.2, 0.3), (0.5, 0.4, 0.3)), ((0.6,), (0.7,))
    new_kernel, new_bias = adapted_stem(kernel, bias, 1, theirs, ours)
    grey = rng.random((2, 2))
    before = sum(np.einsum("hw,hwo->o", (grey - theirs[0][c]) / theirs[1][c], kernel[:, :, c]) for c in range(3)) + bias
    after = np.einsum("hw,hwo->o", (grey - 0.6) / 0.7, new_kernel[:, :, 0]) + new_bias
    np.testing.assert_allclose(after, before, rtol=1e-5)
