"""A network among other layers: shared inputs, layers in front of it, its public names."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2.layers import Preprocessing
from keras_convnextv2.layers.network import network_layers, variables_of

to_numpy = ops.convert_to_numpy


def mini(**options):
    return kc.ConvNeXtV2((1, 2), (4, 6), **{"input_shape": (16, 24, 3), "classes": 3, **options})


def pictures(channels=3):
    return np.random.default_rng(0).uniform(0, 255, (2, 16, 24, channels)).astype("float32")


def test_two_networks_share_an_input(tmp_path):
    images = keras.Input((16, 24, 3))
    first, second = (mini(input_tensor=images, name=name) for name in ("first", "second"))
    both = keras.Model(images, [first.output, second.output])
    both.save(tmp_path / "both.keras")
    again = keras.saving.load_model(tmp_path / "both.keras")
    for ours, theirs, alone in zip(both(pictures()), again(pictures()), (first, second), strict=True):
        np.testing.assert_allclose(to_numpy(ours), to_numpy(alone(pictures())), rtol=0, atol=1e-6)
        np.testing.assert_allclose(to_numpy(theirs), to_numpy(ours), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="one network is needed.*with 2 of them"):
        variables_of(both)


def test_two_networks_of_one_name_are_refused_as_keras_refuses_them():
    images = keras.Input((16, 24, 3))
    first, second = (mini(input_tensor=images, name="same") for _ in range(2))
    with pytest.raises(ValueError, match="used 2 times"):
        keras.Model(images, [first.output, second.output])


@pytest.mark.parametrize("name", ["other", "stage_1", "stem"])
def test_public_paths_do_not_depend_on_the_name(name):
    plain = mini()
    given = mini(input_tensor=keras.Input((16, 24, 3)), name=name, weights=plain)
    paths = list(variables_of(plain))
    assert paths == [v.path for v in plain.weights] == list(variables_of(given))
    assert {"stage_1/block_1/grn/gamma", "stem/conv/kernel", "head/bias"} <= set(paths)
    for path, v in variables_of(given).items():
        np.testing.assert_array_equal(to_numpy(v), to_numpy(variables_of(plain)[path]))
    fcmae = kc.FCMAE(given, decoder_dim=8)
    assert {"decoder/mask_token", "decoder/block_0/grn/gamma", *paths} <= set(variables_of(fcmae))
    assert set(kc.pyramid(given).output) == {"P2", "P3"}


def rescaled():
    images = keras.Input((16, 24, 3))
    return images, keras.layers.Rescaling(255.0)(images)


def mixed():
    images = keras.Input((16, 24, 12))
    return images, keras.layers.Conv2D(3, 1, name="mix")(images)


def joined():
    images = [keras.Input((16, 24, 2)), keras.Input((16, 24, 1))]
    return images, keras.layers.Concatenate()(images)


@pytest.mark.parametrize("front", [rescaled, mixed, joined])
def test_weights_go_into_the_part_that_is_ours(tmp_path, front):
    source = mini()
    source.save_weights(tmp_path / "source.weights.h5")
    images, tensor = front()
    model = mini(input_tensor=tensor, weights=str(tmp_path / "source.weights.h5"), name="behind")
    for path, v in variables_of(source).items():
        np.testing.assert_array_equal(to_numpy(variables_of(model)[path]), to_numpy(v))
    assert isinstance(model.input, list) == (front is joined)
    pytest.importorskip("safetensors")
    report = kc.save_weights_as(model, tmp_path / "out", "huggingface")
    assert bool(report.left_out) == (front is mixed)
    again = mini()
    kc.load_weights(again, tmp_path / "out" / "model.safetensors")
    for path, v in variables_of(source).items():
        np.testing.assert_array_equal(to_numpy(variables_of(again)[path]), to_numpy(v))


def test_fcmae_runs_what_stands_in_front(tmp_path):
    plain = kc.FCMAE(mini(include_top=False), decoder_dim=8)
    behind = kc.FCMAE(mini(include_top=False, input_tensor=rescaled()[1], weights=plain.backbone), decoder_dim=8)
    behind.decoder.set_weights(plain.decoder.get_weights())
    visible = np.array([[0, 3], [2, 5]], "int32")
    for function in ("encode", "sample_losses"):
        expected = to_numpy(getattr(plain, function)(pictures(), visible))
        given = to_numpy(getattr(behind, function)(pictures() / 255, visible))
        np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        behind.reconstruct(pictures() / 255, visible), plain.reconstruct(pictures(), visible), rtol=0, atol=1e-2
    )
    behind.save(tmp_path / "behind.keras")
    again = keras.saving.load_model(tmp_path / "behind.keras")
    np.testing.assert_allclose(
        to_numpy(again.encode(pictures() / 255, visible)), to_numpy(behind.encode(pictures() / 255, visible)), atol=1e-6
    )


def shifted(x):
    """No function of a single pixel."""
    return ops.roll(x, 1, axis=1)


def activated(function):
    images = keras.Input((16, 24, 3))
    return images, keras.layers.Activation(function, name="act")(images)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.ReLU(),
        keras.layers.LeakyReLU(),
        keras.layers.Activation("tanh"),
        keras.layers.Activation("softmax"),  # over colours
        Preprocessing(),
    ],
    ids=lambda layer: layer.name,
)
def test_fcmae_runs_functions_of_a_pixel(layer):
    images = keras.Input((16, 24, 3))
    fcmae = kc.FCMAE(mini(include_top=False, input_tensor=layer(images)), decoder_dim=8)
    expected = kc.FCMAE(mini(include_top=False, weights=fcmae.backbone), decoder_dim=8)
    visible = np.array([[0, 3], [2, 5]], "int32")
    given, wanted = fcmae.encode(pictures(), visible), expected.encode(layer(pictures()), visible)
    np.testing.assert_allclose(to_numpy(given), to_numpy(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "front, message",
    [
        (mixed, "Received: Conv2D 'mix'"),
        (joined, "Received: Concatenate"),
        (lambda: activated(shifted), "Received: Activation 'act'"),
    ],
)
def test_fcmae_refuses_what_it_cannot_run(front, message):
    with pytest.raises(ValueError, match=message):
        kc.FCMAE(mini(include_top=False, input_tensor=front()[1]))


MAP = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1]])
BAD = {
    "map": (MAP, r"shape \(2, 6\), of 6 patches"),
    "bool": (MAP.astype(bool), r"bool of shape \(2, 6\)"),
    "floats": (MAP.astype("float32"), r"float32 of shape \(2, 6\)"),
    "short map": (MAP[:, :4], r"index [01] twice in row 0"),
    "repeated": ([[0, 3], [2, 2]], "index 2 twice in row 1"),
    "negative": ([[0, 3], [-1, 2]], "index -1 in row 1"),
    "beyond": ([[0, 6], [1, 2]], "index 6 in row 0"),
    "batch": ([[0, 3]], r"shape \(1, 2\) for images \(2, 16, 24, 3\)"),
    "rank": (MAP.reshape(2, 2, 3), r"shape \(2, 2, 3\)"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_visible_that_is_no_indices_is_named(kind, as_tensor):
    fcmae = kc.FCMAE(mini(include_top=False), decoder_dim=8)
    given, message = BAD[kind]
    given = np.asarray(given)
    if as_tensor:
        given = ops.convert_to_tensor(given)
    for run in (fcmae.encode, fcmae.sample_losses, fcmae.reconstruct, lambda x, v: fcmae({"images": x, "visible": v})):
        with pytest.raises(ValueError, match=f"visible must be the indices.*{message}"):
            run(pictures(), given)


def test_the_error_says_how_to_turn_a_map_into_indices():
    fcmae = kc.FCMAE(mini(include_top=False), decoder_dim=8)
    with pytest.raises(ValueError) as raised:
        fcmae.encode(pictures(), MAP)
    recipe = str(raised.value).split("stays: ")[1].rstrip(".")
    assert recipe == 'np.argsort(1 - map.reshape(len(map), -1), axis=1, kind="stable")[:, :K]'
    for given in (MAP, MAP.reshape(2, 2, 3), MAP.astype(bool)):
        np.testing.assert_array_equal(eval(recipe, {"np": np, "map": given, "K": 2}), [[0, 3], [2, 5]])


def test_fit_refuses_a_map_and_takes_indices():
    def compiled():
        fcmae = kc.FCMAE(mini(include_top=False), decoder_dim=8)
        fcmae.compile("sgd")
        return fcmae

    with pytest.raises(ValueError, match="visible must be the indices"):
        compiled().fit({"images": pictures(), "visible": MAP}, verbose=0)
    compiled().fit({"images": pictures(), "visible": np.array([[0, 3], [2, 5]])}, verbose=0)


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_tuple_of_images_and_masks_names_the_dict(kind):
    fcmae = kc.FCMAE(mini(include_top=False), decoder_dim=8)
    with pytest.raises(ValueError, match=r'must be \{"images": ..., "visible": ...\}, since `fit`'):
        fcmae(kind([pictures(), np.array([[0, 3], [2, 5]])]))


def test_pools_and_convolutions_are_channels_last_whatever_the_setting():
    model = mini()
    expected = to_numpy(model(pictures()))
    keras.config.set_image_data_format("channels_first")
    try:
        again = mini(weights=model)
        assert keras.models.clone_model(again).output_shape == (None, 3)
        np.testing.assert_allclose(to_numpy(again(pictures())), expected, rtol=0, atol=1e-6)
        maximum = mini(pooling="max", weights=model)
        assert maximum.output_shape == (None, 3) and np.isfinite(to_numpy(maximum(pictures()))).all()
    finally:
        keras.config.set_image_data_format("channels_last")


def test_drawing_stays_off_inside_of_a_constructor():
    from keras_convnextv2.layers.initial import drawing

    with drawing(False):
        model = mini()
    assert not to_numpy(network_layers(model)["stem"].conv.kernel).any()
    assert to_numpy(network_layers(mini())["stem"].conv.kernel).any()
