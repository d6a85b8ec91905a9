"""Encoders with a norm behind each stage, as detectors and segmenters have them; by themselves and inside of one."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2.layers.network import variables_of
from tests.weights.small_files import arrays_in, network, randomised, refused, write

FORMATS = ("huggingface backbone", "mmdetection", "mmdetection backbone")


def normed(**options):
    return kc.pyramid(network(include_top=False, **options), norm=True)


def assert_equal(model, other, paths):
    for path in paths:
        np.testing.assert_array_equal(variables_of(model)[path], variables_of(other)[path], err_msg=path)


@pytest.fixture
def source():
    return randomised(normed())


@pytest.mark.parametrize("format", FORMATS)
def test_a_pyramid_with_norms_takes_them_whole(tmp_path, source, format):
    pytest.importorskip("safetensors")
    file, model = write(tmp_path / "model.safetensors", arrays_in(format, source)), normed()
    report = kc.load_weights(model, file)
    assert report.format == format and not report.left_out and not report.untouched
    assert_equal(model, source, variables_of(source))


@pytest.mark.parametrize("format", FORMATS)
def test_a_plain_network_takes_the_encoder_and_names_the_norms(tmp_path, source, format):
    pytest.importorskip("safetensors")
    arrays = arrays_in(format, source)
    file, model = write(tmp_path / "model.safetensors", arrays), network(include_top=False)
    report = kc.load_weights(model, file)
    assert set(report.left_out.values()) == {f"the model has no norm behind stage {s}" for s in (0, 1)}
    assert set(arrays) - set(report.left_out) == {n for n in arrays if "norm0" not in n and "norm1" not in n} - {
        n for n in arrays if "hidden_states_norms" in n
    }
    assert_equal(model, source, report.loaded)
    assert set(report.loaded) == set(variables_of(model))


def test_some_of_the_norms_are_enough(tmp_path, source):
    """transformers has norms behind those stages only that it hands out: the last one by default."""
    pytest.importorskip("safetensors")
    arrays = arrays_in("huggingface backbone", source)
    held = {name: array for name, array in arrays.items() if "norms.stage1" not in name}
    model = normed()
    report = kc.load_weights(model, write(tmp_path / "model.safetensors", held))
    assert set(report.untouched) == {"norm_0/gamma", "norm_0/beta"}
    assert set(report.untouched.values()) == {"new: the file has no norm behind stage 0"}
    assert_equal(model, source, [path for path in variables_of(source) if not path.startswith("norm_0")])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_other_parts_of_a_detector_are_left_out_by_name(tmp_path, source, prefix):
    pytest.importorskip("safetensors")
    heads = {"neck.lateral_convs.0.conv.weight": np.ones((3, 4, 1, 1)), "rpn_head.rpn_cls.bias": np.ones(3)}
    heads["panoptic_head.bias"] = np.ones(3)
    heads["roi_head.bbox_head.fc_cls.num_batches_tracked"] = np.ones((), "int64")
    arrays = {prefix + name: array for name, array in (arrays_in("mmdetection", source) | heads).items()}
    model = normed()
    report = kc.load_weights(model, write(tmp_path / "model.safetensors", arrays))
    assert set(report.left_out) == {prefix + name for name in heads} and report.prefix == prefix
    assert set(report.left_out.values()) == {"a detector's or segmenter's, beside the network"}
    assert_equal(model, source, variables_of(source))


def test_the_norm_behind_transformers_stem_is_left_out(tmp_path, source):
    pytest.importorskip("safetensors")
    arrays = arrays_in("huggingface backbone", source)
    arrays |= {f"hidden_states_norms.stem.{leaf}": np.ones(4, "float32") for leaf in ("weight", "bias")}
    report = kc.load_weights(normed(), write(tmp_path / "model.safetensors", arrays))
    assert set(report.left_out) == {"hidden_states_norms.stem.weight", "hidden_states_norms.stem.bias"}


def test_names_in_the_report_are_those_of_the_file(tmp_path, source):
    pytest.importorskip("safetensors")
    arrays = {f"module.{name}": array for name, array in arrays_in("huggingface backbone", source).items()}
    report = kc.load_weights(network(include_top=False), write(tmp_path / "model.safetensors", arrays))
    assert report.left_out and set(report.left_out) <= set(arrays)


def test_a_norm_of_no_stage_is_refused(tmp_path, source):
    pytest.importorskip("safetensors")
    arrays = arrays_in("mmdetection", source) | {"backbone.norm7.weight": np.ones(6, "float32")}
    refused(normed(), write(tmp_path / "model.safetensors", arrays), "backbone.norm7.weight")


def test_a_backbone_of_mmpretrain_by_itself_keeps_its_final_norm(tmp_path):
    pytest.importorskip("safetensors")
    source = randomised(network(include_top=False, pooling="avg"))
    model = network(include_top=False, pooling="avg")
    report = kc.load_weights(model, write(tmp_path / "m.safetensors", arrays_in("mmpretrain backbone", source)))
    assert report.format == "mmpretrain backbone"
    assert_equal(model, source, variables_of(source))


def test_keras_file_of_a_pyramid_with_norms(tmp_path, source):
    model = normed()
    source.save_weights(tmp_path / "model.weights.h5")
    report = kc.load_weights(model, tmp_path / "model.weights.h5")
    assert report.format == "weights.h5 pyramid" and not report.left_out and not report.untouched
    assert_equal(model, source, variables_of(source))


def test_written_for_others_without_them(tmp_path, source):
    pytest.importorskip("safetensors")
    report = kc.save_weights_as(source, tmp_path, "huggingface")
    paths = ("norm_0/gamma", "norm_0/beta", "norm_1/gamma", "norm_1/beta")
    assert set(report.left_out) == set(paths) and "norm behind stage 0" in repr(report)
    model = network(include_top=False)
    kc.load_weights(model, tmp_path / "model.safetensors")
    assert_equal(model, source, variables_of(model))


def test_two_pyramids_share_an_input(tmp_path):
    pytest.importorskip("safetensors")
    images = keras.Input((16, 24, 3))
    one, two = (randomised(normed(input_tensor=images, name=name)) for name in ("one", "two"))
    both = keras.Model(images, [one.outputs, two.outputs])
    assert len({v.path for v in both.weights}) == len(one.weights) + len(two.weights)
    assert set(variables_of(one)) == set(variables_of(normed()))
    kc.load_weights(one, write(tmp_path / "model.safetensors", arrays_in("mmdetection", randomised(normed()))))


def test_feature_maps_of_a_segmenter_of_transformers(oracle):
    pytest.importorskip("safetensors")
    model = kc.pyramid(
        kc.ConvNeXtV2((1, 1, 2, 1), (8, 16, 24, 32), include_top=False, include_preprocessing=False), norm=True
    )
    report = kc.load_weights(model, oracle / "mini_upernet_hf.safetensors")
    assert report.format == "huggingface UPerNet" and not report.untouched
    assert all(name.startswith(("decode_head.", "auxiliary_head.")) for name in report.left_out)
    expected = np.load(oracle / "upernet_expected.npz")
    maps = model(expected["image"])
    for n in range(4):
        np.testing.assert_allclose(ops.convert_to_numpy(maps[f"P{n + 2}"]), expected[f"feature{n + 1}"], atol=3e-5)


def test_feature_maps_of_a_detector_of_mmdetection(oracle):
    pytest.importorskip("torch")
    model = kc.pyramid(
        kc.ConvNeXtV2((1, 1, 2, 1), (8, 16, 24, 32), include_top=False, include_preprocessing=False), norm=True
    )
    report = kc.load_weights(model, oracle / "detection" / "det_mini_mmdet.pth")
    assert report.format == "mmdetection Mask R-CNN" and not report.prefix and not report.untouched
    expected = np.load(oracle / "detection" / "det_mini_expected.npz")
    maps = model(expected["image"])
    for n in range(2, 6):
        np.testing.assert_allclose(ops.convert_to_numpy(maps[f"P{n}"]), expected[f"c{n}"], atol=3e-5)
