"""What the outputs of a classifier are called stays with it."""

import json

import keras
import numpy as np
import pytest

import keras_convnextv2 as kc

NAMES = ("cat", "dog", "a/ñ crane")


def classifier(classes=NAMES, **options):
    return kc.ConvNeXtV2((1,), (4,), classes=classes, input_shape=(8, 8, 3), **options)


@pytest.mark.parametrize("given", [NAMES, list(NAMES), np.array(NAMES)])
def test_names_given_as_classes_survive_saving_loading_and_cloning(tmp_path, given):
    model = classifier(given)
    assert model.output_shape == (None, 3) and kc.class_names(model) == NAMES
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for copy in (loaded, keras.models.clone_model(model), keras.Sequential([keras.layers.RandomFlip(), model])):
        assert kc.class_names(copy) == NAMES


def test_a_number_of_classes_has_no_names():
    assert kc.class_names(classifier(3)) is None
    assert kc.class_names(kc.ConvNeXtV2((1,), (4,), include_top=False)) is None


@pytest.mark.parametrize("bad, message", [(["a", "a"], "'a' twice"), ([], "must be a positive int, or names")])
def test_names_are_each_once(bad, message):
    with pytest.raises(ValueError, match=message):
        classifier(bad)


def test_the_head_is_where_it_was_in_a_weights_file(tmp_path):
    import h5py

    classifier().save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5") as file:
        assert "layers/dense/vars" in file


def test_predictions_are_decoded_by_them():
    model = classifier()
    ((first, *_),) = kc.decode_predictions(np.array([[0.1, 0.2, 0.7]]), class_names=kc.class_names(model))
    assert first[:2] == (2, "a/ñ crane")


def test_hugging_faces_config_has_them(tmp_path):
    kc.save_weights_as(classifier(), tmp_path / "hf", "huggingface")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    assert config["label2id"] == {name: i for i, name in enumerate(NAMES)}


def test_a_quantized_head_keeps_them(tmp_path):
    model = classifier()
    model.get_layer("head").quantize("int8")
    model.save(tmp_path / "model.keras")
    assert kc.class_names(keras.models.load_model(tmp_path / "model.keras")) == NAMES


@pytest.mark.slow
def test_an_export_has_them_beside_it(tmp_path):
    kc.export_model(classifier(), tmp_path / "export", verbose=False)
    assert tuple(json.loads((tmp_path / "export" / "class_names.json").read_text(encoding="utf-8"))) == NAMES
