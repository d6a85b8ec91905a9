"""Files with a fault: one line that names the culprit, and a model that is as it was."""

import pathlib
import sys
import zipfile

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


FAULTS = (renamed, missing, doubled, reshaped, not_finite)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
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


@pytest.mark.parametrize("fault", [*FAULTS, "truncated"], ids=lambda f: getattr(f, "__name__", f))
def test_fault_in_a_published_file(tmp_path, hub, small_presets, source, model, fault):
    pytest.importorskip("huggingface_hub")
    arrays = arrays_in("official", source)
    if fault != "truncated":
        fault(arrays)
    content = write(tmp_path / "model.safetensors", arrays).read_bytes()
    hub.files["timm/convnextv2_small.fcmae_ft_in1k/model.safetensors"] = content[: -1 if fault == "truncated" else None]
    before = values(model)
    with pytest.raises(ValueError, match="damaged or cut off" if fault == "truncated" else KERNEL) as info:
        kc.load_weights(model, "imagenet")
    assert "\n" not in str(info.value) and "timm--convnextv2_small.fcmae_ft_in1k" in str(info.value)
    assert_same(model, before)


def fault_in_h5(path, fault):
    import h5py

    name = "layers/stage_1/blocks/conv_ne_xt_v2_block_1/depthwise/vars"
    with h5py.File(path, "a") as file:
        if fault == "missing":
            del file[f"{name}/0"]
        elif fault == "renamed":
            file.move(f"{name}/0", f"{name}/7")
        elif fault == "reshaped":
            kernel = file[f"{name}/0"][:, :5]
            del file[f"{name}/0"]
            file[f"{name}/0"] = kernel
        elif fault == "not finite":
            file[f"{name}/0"][0, 0, 0, 0] = np.inf
        else:
            file.copy(f"{name}/0", f"{name}/7")


@pytest.mark.parametrize("fault", ["missing", "renamed", "reshaped", "not finite", "doubled"])
@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_fault_in_our_own_file(tmp_path, source, model, ending, fault):
    path = tmp_path / f"model{ending}"
    inner = tmp_path / "model.weights.h5"
    source.save_weights(inner)
    fault_in_h5(inner, fault)
    if ending == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(inner, "model.weights.h5")
    refused(model, path, "conv_ne_xt_v2_block_1/depthwise/vars/" + ("7" if fault in ("doubled", "renamed") else "0"))


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """{ending: content} of a whole file of each kind; "old.pt" as torch wrote it before its files were archives."""
    folder = tmp_path_factory.mktemp("whole")
    arrays = arrays_in("official", source)
    write(folder / ".safetensors", arrays)
    source.save(folder / "model.keras")
    source.save_weights(folder / "model.weights.h5")
    contents = {
        ".safetensors": (folder / ".safetensors").read_bytes(),
        ".keras": (folder / "model.keras").read_bytes(),
        ".weights.h5": (folder / "model.weights.h5").read_bytes(),
    }
    try:
        import torch
    except ImportError:
        return contents
    tensors = {"model": {name: torch.from_numpy(value) for name, value in arrays.items()}}
    for ending, archive in ((".pt", True), ("old.pt", False)):
        torch.save(tensors, folder / "model.pt", _use_new_zipfile_serialization=archive)
        contents[ending] = (folder / "model.pt").read_bytes()
    return contents


@pytest.mark.parametrize("ending", [".safetensors", ".pt", "old.pt", ".weights.h5", ".keras"])
def test_file_truncated_at_random_places(tmp_path, whole, model, ending):
    if ending not in whole:
        pytest.skip("torch is not installed")
    content, path = whole[ending], tmp_path / f"model{ending}"
    places = np.random.default_rng(0).integers(1, len(content), 6)
    for size in (0, *places, len(content) - 1):
        path.write_bytes(content[:size])
        refused(model, path, "damaged or cut off")
    path.write_bytes(content)
    kc.load_weights(model, path)


def test_archive_with_a_changed_byte(tmp_path, whole, model):
    content = bytearray(whole[".keras"])
    content[len(content) // 2] ^= 1
    (tmp_path / "model.keras").write_bytes(content)
    refused(model, tmp_path / "model.keras", "damaged or cut off", "CRC")


def test_fault_in_a_file_for_a_constructor(tmp_path, source):
    arrays = arrays_in("timm", source)
    not_finite_array = arrays["stem.0.weight"] = arrays["stem.0.weight"].copy()
    not_finite_array[0, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="not finite in 'stem.0.weight'"):
        network(weights=write(tmp_path / "model.safetensors", arrays))


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


def test_other_stem_is_said(tmp_path, source):
    path = write(tmp_path / "model.safetensors", arrays_in("official", source))
    words = ("patch kernel of 4 x 4", "cannot be turned into one of 2 x 2", "stem_patch_size=4")
    refused(network(stem_patch_size=2), path, *words)


@pytest.mark.parametrize("name, theirs, ours", [("decoder_depth", 1, 2), ("decoder_dim", 8, 12)])
def test_other_decoder_is_said(tmp_path, fcmae, name, theirs, ours):
    path = write(tmp_path / "fcmae.safetensors", arrays_in("official script", fcmae))
    other = kc.FCMAE(fcmae.backbone, **({"decoder_dim": 8} | {name: ours}))
    refused(other, path, f"decoder of {name} {theirs}, the model one of {ours}", f"{name}={theirs}")


@pytest.mark.parametrize("ending", ["gamma", "beta"])
def test_a_norm_of_a_stage_of_one_block(tmp_path, source, model, ending):
    arrays = arrays_in("timm", source)
    name = {"gamma": "stages.0.blocks.0.norm.weight", "beta": "stages.0.blocks.0.norm.bias"}[ending]
    arrays[name] = np.zeros(9, "float32")
    refused(model, write(tmp_path / "one.safetensors", arrays), f"{name!r} has shape (9,)", f"norm/{ending} (4,)")
    arrays |= {f"stages.0.blocks.0.norm.{kind}": np.zeros(9, "float32") for kind in ("weight", "bias")}
    refused(model, write(tmp_path / "both.safetensors", arrays), "'stages.0.blocks.0.norm.weight' has shape (9,)")


def test_no_path(model):
    with pytest.raises(TypeError, match="path must be a file, the name of a preset or hf:owner/name. Received: None"):
        kc.load_weights(model, None)


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
    refused(model, tmp_path / "model.pt", "must hold named arrays", "'lr'")


def test_torch_file_without_names(tmp_path, model):
    torch = pytest.importorskip("torch")
    torch.save({"model": {0: torch.zeros(3)}}, tmp_path / "model.pt")
    refused(model, tmp_path / "model.pt", "must hold named arrays", "Received: [0]")


NUMBERS = "must hold float16, bfloat16, float32, float64 only"


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int64", "bool", "complex64", "float8_e4m3fn", "meta", "sparse_coo"]
)
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_arrays_of_other_types(tmp_path, source, model, ending, dtype):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(value) for name, value in arrays_in("official", source).items()}
    number, path, said = getattr(torch, dtype, None), tmp_path / f"model{ending}", dtype
    if isinstance(number, torch.dtype):
        tensors[KERNEL] = tensors[KERNEL].to(number)
    else:
        tensors[KERNEL] = tensors[KERNEL].to_sparse() if dtype == "sparse_coo" else tensors[KERNEL].to(dtype)
        said = f"{dtype} float32"
    if ending == ".pt":
        torch.save(tensors, path)
    elif said != dtype:
        pytest.skip("safetensors does not write it")
    else:
        from safetensors.torch import save_file

        save_file(tensors, path)
        names = {"int8": "I8", "uint8": "U8", "int64": "I64", "bool": "BOOL", "complex64": "C64"}
        said = names.get(dtype, "F8_E4M3")
    refused(model, path, NUMBERS, f"{KERNEL!r} of {said}")


def test_integers_in_our_own_file(tmp_path, source, model):
    import h5py

    path, name = tmp_path / "model.weights.h5", "layers/stem/conv/vars/0"
    source.save_weights(path)
    with h5py.File(path, "a") as file:
        kernel = file[name][:]
        del file[name]
        file[name] = kernel.astype("int32")
    refused(model, path, NUMBERS, f"{name!r} of int32")


@pytest.mark.parametrize("name", ["head.bias", "stages.0.0.norm.weight", "downsample_layers.0.0.weight"])
def test_an_empty_array(tmp_path, source, model, name):
    arrays = arrays_in("official", source)
    arrays[name] = arrays[name][:0]
    path = write(tmp_path / "model.safetensors", arrays)
    refused(model, path, "must hold whole arrays", f"{name!r} of shape (0,")


def test_no_moving_average_is_said(tmp_path, source, model):
    torch = pytest.importorskip("torch")
    torch.save({"model": {"a": torch.zeros(3)}, "epoch": 3}, tmp_path / "model.pt")
    refused(model, tmp_path / "model.pt", "must hold 'model_ema' for ema=True", "['epoch', 'model']", ema=True)


def test_only_torch_files_have_a_moving_average(tmp_path, source, model):
    path = write(tmp_path / "model.safetensors", arrays_in("timm", source))
    refused(
        model, path, "ema=True reads the moving average of a torch file (.pt, .pth, .pth.tar, .ckpt, .bin)", ema=True
    )


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
