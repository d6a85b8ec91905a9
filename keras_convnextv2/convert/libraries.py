"""What timm or transformers answers with the weights of a file, asked in a process of its own.

python -m keras_convnextv2.convert.libraries timm|transformers FILE_OR_FOLDER INPUT.npz OUTPUT.npz [--ema]

INPUT holds `images` (B, H, W, C), normalised. OUTPUT gets `features` (B, h, w, dims[-1]), the map of the last stage,
and `logits` (B, classes) where the file has a classifier. A folder is read with its config.json, a file by the sizes of
its arrays. Exit code 3: the library cannot be imported.

A process of its own, since torch's compiler and TensorFlow's cannot live in one: they bring different LLVMs.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from keras_convnextv2.weights.matching import measure, open_recognised

NOT_HERE = 3  # exit code


def answers(library, path, images, ema=False):
    """{"features": ..., "logits": ...} of "timm" or "transformers" for a file or folder; images as in INPUT above.

    Raises:
        ImportError: the library is not there.
        RuntimeError: it cannot load the file; its last line says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, answered = pathlib.Path(folder, "input.npz"), pathlib.Path(folder, "output.npz")
        np.savez(given, images=images)
        # torch is there wherever the library is; TensorFlow must not be
        here = str(pathlib.Path(__file__).parents[2])  # also where the package was found by other means than a path
        paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), here)))
        environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": paths}
        program = [sys.executable, "-m", __name__, library, str(path), str(given), str(answered)]
        done = subprocess.run([*program, *(["--ema"] if ema else [])], env=environment, capture_output=True, text=True)
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        if done.returncode == NOT_HERE:
            raise ImportError(last)
        if done.returncode:
            raise RuntimeError(f"{library} does not load {str(path)!r}: {last}")
        with np.load(answered, allow_pickle=False) as file:
            return dict(file)


def main(arguments):
    ema = "--ema" in arguments
    library, path, given, answered = [argument for argument in arguments if argument != "--ema"]
    try:
        import_torchvision()
        build = {"timm": _timm, "transformers": _transformers}[library]
        ask = build(pathlib.Path(path), ema)
    except ImportError as error:
        print(f"{library} cannot be imported ({error})", file=sys.stderr)
        return NOT_HERE
    import torch

    with np.load(given, allow_pickle=False) as file:
        images = torch.from_numpy(file["images"].astype("float32")).permute(0, 3, 1, 2)
    with torch.inference_mode():
        found = ask(images)
    found["features"] = found["features"].permute(0, 2, 3, 1)
    np.savez(answered, **{name: tensor.numpy() for name, tensor in found.items()})
    return 0


def import_torchvision():
    """Both libraries import torchvision where it is there, so it must be whole.

    The torchvision of the package index is built for a CUDA torch: beside a CPU torch its compiled operators do not
    load, and the declarations of their shapes fail for want of an operator. No network here calls one, so that an
    empty declaration is enough.
    """
    import importlib.util

    import torch

    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


def _read(path, ema):
    """(name of the layout, Size, {name: tensor}) of a file."""
    import torch

    with open_recognised(path, ema) as found:
        tensors = {name: torch.from_numpy(np.array(found.arrays.read(name))) for name in found.arrays.shapes}
        return found.table.name, measure(found.table, found.arrays.shapes), tensors


def _timm(path, ema):
    import timm
    from timm.models.convnext import checkpoint_filter_fn

    if path.is_dir():
        model = timm.create_model(f"local-dir:{path}", pretrained=True)
    else:
        form, size, tensors = _read(path, ema)
        named = size.name is not None
        model = timm.create_model(
            f"convnextv2_{size.name or 'tiny'}",
            num_classes=size.classes or 0,
            in_chans=size.stem[2],
            patch_size=size.stem[0],
            **({} if named else {"depths": size.depths, "dims": size.dims, "conv_mlp": form == "timm conv"}),
        )
        _fill(model, checkpoint_filter_fn(tensors, model), {"head.norm.weight", "head.norm.bias"})
    model.eval()

    def ask(images):
        features = model.forward_features(images)
        return {"features": features} | ({"logits": model.forward_head(features)} if model.num_classes else {})

    return ask


def _transformers(path, ema):
    from transformers import AutoModel, AutoModelForImageClassification, ConvNextV2Config

    if path.is_dir():
        [architecture] = json.loads((path / "config.json").read_text(encoding="utf-8"))["architectures"]
        has_head = architecture.endswith("ForImageClassification")
        model = (AutoModelForImageClassification if has_head else AutoModel).from_pretrained(path)
    else:
        _, size, tensors = _read(path, ema)
        has_head = size.classes is not None
        config = ConvNextV2Config(
            depths=size.depths,
            hidden_sizes=size.dims,
            num_stages=len(size.depths),
            num_labels=size.classes or 2,
            patch_size=size.stem[0],
            num_channels=size.stem[2],
            hidden_act="gelu",
        )
        model = (AutoModelForImageClassification if has_head else AutoModel).from_config(config)
        _fill(model, tensors, set())
    model.eval()

    def ask(images):
        encoder = model.convnextv2 if has_head else model
        found = encoder(images)
        logits = {"logits": model.classifier(found.pooler_output)} if has_head else {}
        return {"features": found.last_hidden_state, **logits}

    return ask


def _fill(model, tensors, excused):
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if set(missing) - excused or unexpected:
        raise ValueError(f"arrays do not fit: missing {missing[:3]}, not expected {unexpected[:3]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
