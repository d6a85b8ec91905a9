"""The public names, and hints where somebody uses another library's."""

import keras
import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2 import backbone
from keras_convnextv2.layers.network import variables_of
from keras_convnextv2.weights import loading

NAMES = {
    "ConvNeXtV2", "from_preset", "pyramid", "FCMAE", "load_weights", "save_weights_as", "list_presets",
    "preset_transform", "decode_predictions", "preprocess_input", "normalize", "export_model", "keep_memory", "GRN",
    "DropPath", "DepthwiseConv2D", "ConvNeXtV2Block", "class_names", "LoadReport", "SaveReport", "Preset",
    "EvaluationTransform", "UPerNet", "MaskRCNN",
    *(f"ConvNeXtV2{size}" for size in ("Atto", "Femto", "Pico", "Nano", "Tiny", "Base", "Large", "Huge")),
}  # fmt: skip


def test_the_public_names_are_these():
    assert set(kc.__all__) == NAMES and all(hasattr(kc, name) for name in NAMES)


@pytest.mark.parametrize("make", [kc.ConvNeXtV2Atto, lambda **words: kc.ConvNeXtV2((1,), (4,), **words)])
@pytest.mark.parametrize("word, ours", [("num_classes", "classes"), ("drop_rate", "drop_path_rate")])
def test_another_librarys_word_gets_ours_as_a_hint(make, word, ours):
    with pytest.raises(TypeError, match=rf"\(\) calls it {ours}. Received: {word}=3"):
        make(**{word: 3})
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        make(nonsense=1)


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Instead of the hub: an Atto of one head of 1000 and one without, by the names of their files."""
    files = {}
    for name, top in (("convnextv2_atto.fcmae_ft_in1k", True), ("convnextv2_atto.fcmae", False)):
        source = kc.ConvNeXtV2Atto(include_top=top)
        files[name] = (tmp_path / f"{top}.weights.h5", source)
        source.save_weights(files[name][0])
    monkeypatch.setattr(loading, "weights_file", lambda source, *args: files[source][0])
    return {name: source for name, (_, source) in files.items()}


def same(model, source):
    theirs = variables_of(source)
    return [
        path
        for path, v in variables_of(model).items()
        if path in theirs and not np.array_equal(*map(keras.ops.convert_to_numpy, (v, theirs[path])))
    ]


def test_a_row_gives_its_size_its_picture_its_head_and_its_weights(published):
    model = kc.from_preset("convnextv2_atto.fcmae_ft_in1k", drop_path_rate=0.1)
    assert model.input_shape == (None, 224, 224, 3) and model.output_shape == (None, 1000)
    assert same(model, published["convnextv2_atto.fcmae_ft_in1k"]) == []
    encoder = kc.from_preset("convnextv2_atto.fcmae")
    assert encoder.output_shape == (None, 7, 7, 320)
    assert same(encoder, published["convnextv2_atto.fcmae"]) == []


def test_other_classes_get_a_new_head_with_a_warning(published):
    for name in published:
        with pytest.warns(UserWarning, match="new in .*head"):
            model = kc.from_preset(name, classes=3, input_shape=(64, 96, 3))
        assert model.output_shape == (None, 3) and model.input_shape == (None, 64, 96, 3)
        assert not [path for path in same(model, published[name]) if path.startswith("st")]


def test_a_name_of_several_sizes_is_refused():
    with pytest.raises(ValueError, match="exists for several sizes: name one in full"):
        kc.from_preset("imagenet")
    with pytest.raises(ValueError, match="no preset is called 'convnextv2_atom'"):
        kc.from_preset("convnextv2_atom")


def test_the_table_of_constructors_is_the_table_of_sizes():
    assert list(backbone._CONSTRUCTORS) == list(backbone.SIZES)
