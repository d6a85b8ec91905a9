"""Files with a fault: one line that names the culprit, and a model that is as it was."""

import pathlib
import sys

import numpy as np
import pytest

import keras_convnextv2 as kc
from keras_convnextv2.weights.matching import measure
from keras_convnextv2.weights.rows import OWN
from tests.weights.small_files import arrays_in, assert_same, network, refused, values, write

pytest.importorskip("safetensors")

KERNEL = "stages.1.1.dwconv.weight"


def renamed(arrays):
    arrays["stages.1.1.dwconf.weight"] = arrays.pop(KERNEL)


def missing(arrays):
    del arrays[KERNEL]


def doubled(arrays):
    arrays[f"copy.{KERNEL}"] = arrays[KERNEL]


def reshaped(arrays):
    arrays[KERNEL] = np.ascontiguousarray(arrays[KERNEL][:, :, :, :5])


def not_finite(arrays):
    arrays[KERNEL] = arrays[KERNEL].copy()
    arrays[KERNEL][0, 0, 3, 3] = np.nan


@pytest.mark.parametrize("fault", [renamed, missing, doubled, reshaped, not_finite], ids=lambda f: f.__name__)
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_fault_is_named_and_changes_nothing(tmp_path, source, model, fault, ending):
    arrays = arrays_in("official", source)
    fault(arrays)
    path = tmp_path / f"model{ending}"
    if ending == ".pt":
        torch = pytest.importorskip("torch")
        torch.save({"model": {name: torch.from_numpy(value) for name, value in arrays.items()}}, path)
    else:
        write(path, arrays)
    refused(model, path, KERNEL)


def fault_in_h5(path, fault):
    import h5py

    name = "layers/stage_1/blocks/conv_ne_xt_v2_block_1/depthwise/vars"
    with h5py.File(path, "a") as file:
        if fault == "missing":
            del file[f"{name}/0"]
        elif fault == "not finite":
            file[f"{name}/0"][0, 0, 0, 0] = np.inf
        else:
            file[f"{name}/7"] = np.zeros(3, "float32")


@pytest.mark.parametrize("fault", ["missing", "not finite", "added"])
def test_fault_in_our_own_file(tmp_path, source, model, fault):
    path = tmp_path / "model.weights.h5"
    source.save_weights(path)
    fault_in_h5(path, fault)
    refused(model, path, "conv_ne_xt_v2_block_1/depthwise/vars/" + ("7" if fault == "added" else "0"))


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".weights.h5", ".keras"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.95])
def test_truncated_file(tmp_path, source, model, ending, share):
    path = tmp_path / f"model{ending}"
    if ending == ".safetensors":
        write(path, arrays_in("official", source))
    elif ending == ".pt":
        torch = pytest.importorskip("torch")
        torch.save({"model": {"a": torch.zeros(1000)}}, path)
    elif ending == ".keras":
        source.save(path)
    else:
        source.save_weights(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(model, path, "damaged or cut off")


def test_other_depths_and_dims_are_both_said(tmp_path, source):
    path = write(tmp_path / "model.safetensors", arrays_in("timm", source))
    other = kc.ConvNeXtV2((1, 1), (4, 8), input_shape=(16, 24, 3), classes=5)
    refused(other, path, "depths (1, 2) and dims (4, 6)", "depths (1, 1) and dims (4, 8)")


def test_published_sizes_are_called_by_name():
    size = measure(OWN, {})
    assert "no published size" in str(size)
    assert "(femto)" in str(type(size)((2, 2, 6, 2), (48, 96, 192, 384), None, None, 0))


def test_other_class_count_is_said(tmp_path, source):
    path = write(tmp_path / "model.safetensors", arrays_in("official", source))
    refused(network(classes=9), path, "5 classes", "9", "skip_head=True")


def test_a_missing_head_is_said(tmp_path, source, model):
    arrays = {name: value for name, value in arrays_in("timm", source).items() if not name.startswith("head.fc")}
    path = write(tmp_path / "model.safetensors", arrays)
    refused(model, path, "no classifier head", "5 classes", "skip_head=True")
    assert set(kc.load_weights(model, path, skip_head=True).untouched) == {"head/kernel", "head/bias"}


@pytest.mark.parametrize(
    "options, words", [({"input_shape": (16, 24, 1)}, "channels 1"), ({"stem_patch_size": 2}, "stem_patch_size 2")]
)
def test_other_stem_is_said(tmp_path, source, options, words):
    path = write(tmp_path / "model.safetensors", arrays_in("official", source))
    refused(network(**options), path, words, "channels 3" if "channels" in words else "stem_patch_size 4")


def test_other_decoder_depth_is_said(tmp_path, fcmae):
    path = write(tmp_path / "fcmae.safetensors", arrays_in("official script", fcmae))
    refused(kc.FCMAE(fcmae.backbone, decoder_dim=8, decoder_depth=2), path, "decoder of depth 1", "decoder_depth=1")


def test_no_such_file(tmp_path, model):
    refused(model, tmp_path / "nothing.pt", "no weights file", ".safetensors", error=FileNotFoundError)


def test_a_folder_is_no_file(tmp_path, model):
    refused(model, tmp_path, "is a folder")


def test_other_endings_are_refused(tmp_path, model):
    (tmp_path / "model.onnx").write_bytes(b"x")
    refused(model, tmp_path / "model.onnx", "must end in", ".safetensors")


def test_torch_file_without_arrays(tmp_path, model):
    torch = pytest.importorskip("torch")
    torch.save({"model": {"lr": 0.1}}, tmp_path / "model.pt")
    refused(model, tmp_path / "model.pt", "must hold named arrays", "'model'")


@pytest.mark.parametrize(
    "package, ending, extra",
    [
        ("safetensors", ".safetensors", 'pip install "keras_convnextv2[weights]"'),
        ("torch", ".pt", 'pip install "keras_convnextv2[torch]"'),
    ],
)
def test_missing_package_names_the_extra(tmp_path, model, monkeypatch, package, ending, extra):
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"x")
    before = values(model)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, package, None)  # what an import finds where the package is not installed
        with pytest.raises(ImportError) as info:
            kc.load_weights(model, path)
    assert extra in str(info.value) and str(path) in str(info.value)
    assert_same(model, before)


class Runs:
    """Pickled, it creates a file when it is loaded by an unsafe loader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_file_that_would_run_code_is_refused(tmp_path, source, model):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value) for name, value in arrays_in("official", source).items()}
    torch.save({"model": tensors, "args": Runs(str(tmp_path / "pwned"))}, tmp_path / "model.pt")
    refused(model, tmp_path / "model.pt", "was refused", "io.open")
    assert not (tmp_path / "pwned").exists()


def test_malicious_file_runs_nothing(oracle, mini, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(mini, oracle / "malicious.pt", "was refused")
    assert not pathlib.Path("pwned").exists()
