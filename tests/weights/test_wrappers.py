"""Files as training code leaves them: prefixes of wrappers, other endings; and HDF5 that points elsewhere."""

import h5py
import keras
import numpy as np
import pytest
from keras import ops

import keras_convnextv2 as kc
from keras_convnextv2.layers.network import variables_of


def mini(**options):
    return kc.ConvNeXtV2((1, 1, 2, 1), (8, 16, 24, 32), **{"input_shape": (64, 96, 3), "classes": 7, **options})


def values(model):
    return {path: ops.convert_to_numpy(v) for path, v in variables_of(model).items()}


def assert_equal(model, other):
    for path, value in values(other).items():
        np.testing.assert_array_equal(values(model)[path], value)


@pytest.mark.parametrize("format", ["timm", "huggingface"])
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.model.", "backbone."]
)
def test_prefixes_that_all_names_have_are_taken_off(tmp_path, format, prefix):
    safetensors = pytest.importorskip("safetensors.numpy")
    source, model = mini(), mini()
    kc.save_weights_as(source, tmp_path, format)
    arrays = safetensors.load_file(tmp_path / "model.safetensors")
    wrapped = {prefix + name: array for name, array in arrays.items()}
    safetensors.save_file(wrapped, tmp_path / "wrapped.safetensors")
    report = kc.load_weights(model, tmp_path / "wrapped.safetensors")
    assert report.prefix == prefix and f"taken off every name: {prefix!r}" in repr(report)
    assert_equal(model, source)
    some = {name if i == 5 else prefix + name: array for i, (name, array) in enumerate(arrays.items())}
    safetensors.save_file(some, tmp_path / "some.safetensors")
    before = values(model)
    with pytest.raises(ValueError, match="in no format that can be read|does not fit"):
        kc.load_weights(model, tmp_path / "some.safetensors")
    assert all(np.array_equal(v, before[path]) for path, v in values(model).items())


def test_nothing_is_taken_off_names_that_are_right(tmp_path):
    pytest.importorskip("safetensors")
    kc.save_weights_as(mini(), tmp_path, "timm")
    assert kc.load_weights(mini(), tmp_path / "model.safetensors").prefix == ""


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch writes it")
@pytest.mark.parametrize("ending", [".pth.tar", ".ckpt"])
@pytest.mark.parametrize("average", ["model_ema", "state_dict_ema", "ema_state_dict"])
def test_other_endings_of_torch_files(tmp_path, ending, average):
    import torch

    source, model = mini(), mini()
    kc.save_weights_as(source, tmp_path / "model.pt", "official")
    arrays = torch.load(tmp_path / "model.pt")["model"]
    doubled = {f"module.{name}": 2 * array for name, array in arrays.items()}
    torch.save({"state_dict": arrays, average: doubled}, tmp_path / f"run{ending}")
    kc.load_weights(model, tmp_path / f"run{ending}")
    assert_equal(model, source)
    assert kc.load_weights(model, tmp_path / f"run{ending}", ema=True).prefix == "module."
    for path, value in values(source).items():
        np.testing.assert_array_equal(values(model)[path], 2 * value)


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_hdf5_that_points_to_other_files_is_refused(tmp_path, kind):
    model, (file, secret) = mini(), (tmp_path / "model.weights.h5", tmp_path / "secret.h5")
    model.save_weights(file)
    before = values(model)
    with h5py.File(secret, "w") as other:
        other["numbers"] = np.full(7, 5, "float32")
    (tmp_path / "secret.raw").write_bytes(bytes(7 * 4))
    with h5py.File(file, "a") as held:
        name = "layers/dense/vars/1"
        del held[name]
        if kind == "external":
            held.create_dataset(name, (7,), "float32", external=[(str(tmp_path / "secret.raw"), 0, 28)])
        else:
            layout = h5py.VirtualLayout((7,), "float32")
            layout[:] = h5py.VirtualSource(str(secret), "numbers", shape=(7,))
            held.create_virtual_dataset(name, layout)
    with pytest.raises(
        ValueError, match="must hold its own numbers. Received: 'layers/dense/vars/1', stored in another"
    ):
        kc.load_weights(model, file)
    assert all(np.array_equal(v, before[path]) for path, v in values(model).items())
