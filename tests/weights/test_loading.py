"""Files and models into models: every format gives the same network."""

import argparse

import keras
import ml_dtypes
import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2.weights import apply_weights
from tests.weights.small_files import arrays_in, assert_same, network, randomised, run_without_torch, values, write

pytest.importorskip("safetensors")
SAFETENSORS = ("official", "timm", "timm conv", "huggingface", "huggingface model", "mmpretrain")


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_of_every_format_and_number_type(tmp_path, source, model, name, dtype):
    arrays = {key: value.astype(dtype) for key, value in arrays_in(name, source).items()}
    report = kc.load_weights(model, write(tmp_path / "model.safetensors", arrays))
    assert report.format == name and not report.left_out and not report.untouched
    assert sorted(report.loaded) == sorted(values(model))
    assert_same(model, values(source))


@pytest.mark.parametrize("container", [None, "model", "state_dict"])
def test_torch_files_with_and_without_a_container(tmp_path, source, model, container):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value) for name, value in arrays_in("official", source).items()}
    content = (
        tensors if container is None else {container: tensors, "args": argparse.Namespace(lr=0.1), "epoch": "best"}
    )
    torch.save(content, tmp_path / "model.pt")
    assert kc.load_weights(model, tmp_path / "model.pt").format == "official"
    assert_same(model, values(source))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["timm", "timm conv", "huggingface", "huggingface model"])
def test_bin_files_of_the_libraries(tmp_path, source, model, name, dtype):
    torch = pytest.importorskip("torch")
    number_type = getattr(torch, dtype)
    tensors = {key: torch.from_numpy(value).to(number_type) for key, value in arrays_in(name, source).items()}
    torch.save(tensors, tmp_path / "model.bin")
    assert kc.load_weights(model, tmp_path / "model.bin").format == name
    assert_same(model, values(source))


@pytest.mark.parametrize("container", ["model_ema", "state_dict_ema"])
def test_moving_average_on_request(tmp_path, source, model, container):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value) for name, value in arrays_in("official", source).items()}
    last = {name: value + 1 for name, value in tensors.items()}
    torch.save({"model": last, container: tensors, "epoch": 3}, tmp_path / "model.pth")
    kc.load_weights(model, tmp_path / "model.pth", ema=True)
    assert_same(model, values(source))
    kc.load_weights(model, tmp_path / "model.pth")
    np.testing.assert_array_equal(values(model)["norm/gamma"], values(source)["norm/gamma"] + 1)


@pytest.mark.parametrize("verbose", [0, 1])
def test_progress_bar_on_request(tmp_path, source, model, capsys, verbose):
    path = write(tmp_path / "model.safetensors", arrays_in("timm", source))
    report = kc.load_weights(model, path, verbose=verbose)
    said = capsys.readouterr().out
    assert (f"{len(report.loaded)}/{len(report.loaded)}" in said) if verbose else not said


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_our_own_files(tmp_path, source, model, ending):
    path = tmp_path / f"model{ending}"
    source.save_weights(path) if "h5" in ending else source.save(path)
    assert kc.load_weights(model, path).format == "weights.h5"
    assert_same(model, values(source))


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_optimizer_in_our_own_file_is_not_read(tmp_path, model, ending):
    trained = network()
    trained.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    trained.optimizer.build(trained.trainable_variables)
    path = tmp_path / f"model{ending}"
    trained.save_weights(path) if "h5" in ending else trained.save(path)
    assert not kc.load_weights(model, path).left_out
    assert_same(model, values(trained))


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_own_files_of_bfloat16(tmp_path, model, ending):
    halves, path = randomised(network(dtype="bfloat16")), tmp_path / f"half{ending}"
    halves.save_weights(path) if "h5" in ending else halves.save(path)
    kc.load_weights(model, path)
    for path, value in values(halves).items():
        np.testing.assert_array_equal(values(model)[path], value.astype("float32"), err_msg=path)


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_own_files_of_an_fcmae_give_a_classifier_its_encoder(tmp_path, fcmae, model, ending):
    path = tmp_path / f"fcmae{ending}"
    fcmae.save_weights(path) if "h5" in ending else fcmae.save(path)
    report = kc.load_weights(model, path)
    top = {"norm/gamma", "norm/beta", "head/kernel", "head/bias"}
    assert set(report.untouched) == top and len(report.left_out) == 15
    assert_same(model, values(fcmae), untouched=top)


def test_script_file_fills_a_whole_fcmae(tmp_path, fcmae):
    path = write(tmp_path / "fcmae.safetensors", arrays_in("official script", fcmae))
    other = kc.FCMAE(network(include_top=False), decoder_dim=8)
    report = kc.load_weights(other, path)
    assert report.format == "official script" and not report.untouched
    assert_same(other, values(fcmae))


def test_classifier_file_gives_an_fcmae_its_encoder(tmp_path, source):
    other = kc.FCMAE(network(include_top=False), decoder_dim=8)
    report = kc.load_weights(other, write(tmp_path / "model.safetensors", arrays_in("timm", source)))
    assert all(path.startswith("decoder/") for path in report.untouched) and len(report.untouched) == 15
    assert sorted(report.left_out) == ["head.fc.bias", "head.fc.weight", "head.norm.bias", "head.norm.weight"]


@pytest.mark.parametrize(
    "options, left_out",
    [
        ({}, ["head.bias", "head.weight", "norm.bias", "norm.weight"]),
        ({"pooling": "avg"}, ["head.bias", "head.weight"]),
    ],
)
def test_surplus_of_a_file_is_left_out_and_named(tmp_path, source, options, left_out):
    model = network(include_top=False, **options)
    report = kc.load_weights(model, write(tmp_path / "model.safetensors", arrays_in("official", source)))
    assert sorted(report.left_out) == left_out and not report.untouched
    assert_same(model, values(source))
    assert "head.bias (the model has no classifier head)" in repr(report)


def test_a_backbones_file_gives_a_classifier_its_encoder(tmp_path, source, fcmae, model):
    path = tmp_path / "backbone.weights.h5"
    fcmae.backbone.save_weights(path)
    assert set(kc.load_weights(model, path).untouched.values()) == {"the file has neither norm nor head"}
    path = write(tmp_path / "fcmae.safetensors", arrays_in("official script", fcmae))
    assert set(kc.load_weights(model, path).untouched.values()) == {"the file is from pre-training and has none"}


def test_skip_head_leaves_the_models_own(tmp_path, source):
    model = network(classes=9)
    before = values(model)
    path = write(tmp_path / "model.safetensors", arrays_in("timm", source))
    report = kc.load_weights(model, path, skip_head=True)
    assert set(report.untouched) == {"head/kernel", "head/bias"} and set(report.left_out) == {
        "head.fc.weight",
        "head.fc.bias",
    }
    np.testing.assert_array_equal(values(model)["head/kernel"], before["head/kernel"])
    assert_same(model, values(source), untouched=report.untouched)


# The `weights` argument


def test_weights_of_a_classifier_of_other_classes(source):
    model = network(classes=3)
    report = apply_weights(model, source)
    assert set(report.untouched) == {"head/kernel", "head/bias"}
    assert_same(model, values(source), untouched=report.untouched)


def test_weights_of_a_classifier_of_the_same_classes(source, model):
    assert not apply_weights(model, source).untouched
    assert_same(model, values(source))


@pytest.mark.parametrize("options", [{}, {"pooling": "max"}])
def test_weights_of_a_backbone(model, options):
    backbone = randomised(network(include_top=False, **options))
    report = apply_weights(model, backbone)
    assert set(report.untouched) == set(values(model)) - set(values(backbone))
    assert_same(model, values(backbone), untouched=report.untouched)


def no_draw(*args, **kwargs):
    raise AssertionError("random weights were drawn that a file fills")


def test_weights_skip_the_draw_of_random_ones(tmp_path, source, monkeypatch):
    path = write(tmp_path / "model.safetensors", arrays_in("timm", source))
    monkeypatch.setattr(np.random, "default_rng", no_draw)
    assert_same(network(weights=path), values(source))
    with pytest.raises(AssertionError, match="drawn"):  # and only then
        network()


def test_a_new_head_is_drawn(source, fcmae):
    for weights, new in ((source, "head"), (fcmae, "head and norm")):
        with pytest.warns(UserWarning, match=f"new in 'convnextv2': {new}; {weights.name!r} has none that fits"):
            model = network(weights=weights, classes=400, head_init_scale=0.5)
        head = values(model)["head/kernel"]
        assert head.std() == pytest.approx(0.01, rel=0.1) and abs(head.mean()) < 0.001


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_backbone_without_a_head_is_not_warned_of(fcmae, source):
    network(weights=fcmae, include_top=False, pooling="avg")
    network(weights=source)


def test_layers_are_drawn_again_after_an_error():
    with pytest.raises(ValueError, match="mean must hold one number per channel"):
        network(weights="never read", mean=(0.5,))
    layer = kc.DepthwiseConv2D(7)
    layer.build((None, 8, 9, 4))
    assert np.abs(keras.ops.convert_to_numpy(layer.kernel)).max() > 0


def test_constructor_takes_an_fcmae_or_a_path(tmp_path, source, fcmae):
    with pytest.warns(UserWarning, match="new in 'convnextv2': head and norm"):
        model = network(weights=fcmae)
    assert_same(model, values(fcmae), untouched={"norm/gamma", "norm/beta", "head/kernel", "head/bias"})
    path = write(tmp_path / "model.safetensors", arrays_in("timm conv", source))
    assert_same(network(weights=path), values(source))


def test_constructor_says_what_it_looked_for():
    with pytest.raises(FileNotFoundError, match="no weights file at 'fcmae_in1k', and no preset.*fcmae_ft_in1k"):
        network(weights="fcmae_in1k")


def test_weights_of_another_type():
    with pytest.raises(TypeError, match="None, a path, the name of a preset, or a keras.Model. Received: 3"):
        network(weights=3)


# Other people's files


@pytest.mark.parametrize(
    "file, name",
    [
        ("mini_official.pt", "official"),
        ("mini_timm_linear.safetensors", "timm"),
        ("mini_timm_conv.safetensors", "timm conv"),
        ("mini_hf.safetensors", "huggingface"),
        ("mini_mmpretrain.pth", "mmpretrain"),
    ],
)
def test_files_of_one_network_give_its_logits(oracle, mini, file, name):
    expected = np.load(oracle / "mini_expected.npz")
    keras.utils.set_random_seed(1)
    assert kc.load_weights(mini, oracle / file).format == name
    logits = mini.predict_on_batch(expected["image"])
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("file", ["mini_fcmae_released.pt", "mini_fcmae_script.pt"])
def test_pretraining_files_give_the_encoder_of_the_fine_tuned_file(oracle, mini, file):
    kc.load_weights(mini, oracle / "mini_official.pt")
    expected = values(mini)
    for v in mini.weights:
        v.assign(np.zeros(v.shape, "float32"))
    report = kc.load_weights(mini, oracle / file)
    assert set(report.untouched) == {"norm/gamma", "norm/beta", "head/kernel", "head/bias"}
    assert_same(mini, expected, untouched=report.untouched)


def test_moving_average_of_an_official_file_gives_its_logits(oracle, mini):
    expected = np.load(oracle / "mini_expected.npz")
    kc.load_weights(mini, oracle / "mini_official.pt", ema=True)
    logits = mini.predict_on_batch(expected["image"])
    np.testing.assert_allclose(logits, expected["logits_model_ema"], rtol=0, atol=1e-5)


def test_released_file_says_that_the_decoder_is_new(oracle, mini):
    model = kc.FCMAE(mini, patch_size=32, decoder_dim=16)
    report = kc.load_weights(model, oracle / "mini_fcmae_released.pt")
    decoder = {path: why for path, why in report.untouched.items() if path.startswith("decoder/")}
    assert len(decoder) == 15 and set(decoder.values()) == {"new: the file has no FCMAE decoder"}
    assert f"left as they are: {', '.join(decoder)} (new: the file has no FCMAE decoder)" in repr(report)


def test_atto_files_hold_the_same_network(oracle):
    model = kc.ConvNeXtV2Atto(weights=oracle / "atto_official.pt")
    expected = values(model)
    for file in ("atto_timm.safetensors", "atto_hf.safetensors"):
        for v in model.weights:
            v.assign(np.zeros(v.shape, "float32"))
        kc.load_weights(model, oracle / file)
        assert_same(model, expected)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="the torch backend imports torch itself")
def test_safetensors_are_read_without_torch(tmp_path, source):
    path = write(tmp_path / "model.safetensors", arrays_in("timm", source))
    run_without_torch(
        "from keras_convnextv2.weights import readers\n"
        f"with readers.open_arrays(readers.existing_file({str(path)!r})) as a: [a.read(n) for n in a.shapes]\n"
    )
