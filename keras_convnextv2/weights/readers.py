"""Files of arrays: names and shapes first, then one array at a time. Nothing in a file is ever executed."""

import argparse
import contextlib
import dataclasses
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

KINDS = ".safetensors, .pt, .pth, .bin, .weights.h5, .keras"
CONTAINERS = ("model", "state_dict")  # where a training script puts the weights, beside optimizer and arguments


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Named arrays that are read only when asked for."""

    shapes: dict  # name: tuple
    read: Callable  # name -> array of float32


@contextlib.contextmanager
def open_arrays(path):
    """The Arrays of a file by its ending; it stays open inside the `with`."""
    with _OPENERS.get(path.suffix, _open_torch)(path) as arrays:
        yield arrays


def existing_file(path):
    """The path of a weights file; raises when there is none or its ending is not one that can be read."""
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"weights must be a file, {str(path)!r} is a folder: name the file in it ({KINDS})")
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {str(path)!r}. What can be read: {KINDS}")
    if not path.name.endswith(tuple(KINDS.split(", "))):
        raise ValueError(f"weights must end in one of {KINDS}. Received: {str(path)!r}")
    return path


@contextlib.contextmanager
def _open_safetensors(path):
    import ml_dtypes  # noqa: F401  keras depends on it; its import makes numpy know the name bfloat16

    try:
        import safetensors
    except ImportError as error:
        raise ImportError(f'{str(path)!r} needs safetensors: pip install "keras_convnextv2[weights]"') from error
    try:
        file = safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise _damaged(path, error) from error
    with file:
        yield Arrays(
            {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()},  # noqa: SIM118  not a dict
            lambda name: file.get_tensor(name).astype("float32", copy=False),
        )


@contextlib.contextmanager
def _open_h5(path):
    import h5py  # keras depends on both
    import ml_dtypes

    try:
        file = h5py.File(path)
    except OSError as error:
        raise _damaged(path, error) from error
    with file:
        found = {}

        def note(name, item):
            if isinstance(item, h5py.Dataset) and item.dtype.kind != "u":  # not the states of random seeds
                found[_NUMBERED.sub(r"\1_0/", name)] = item

        file.visititems(note)

        def read(name):
            raw_bytes = found[name].attrs.get("dtype") == "bfloat16"  # Keras' mark: HDF5 has no such type
            return np.array(found[name], dtype=ml_dtypes.bfloat16 if raw_bytes else None).astype("float32")

        yield Arrays({name: tuple(item.shape) for name, item in found.items()}, read)


@contextlib.contextmanager
def _open_torch(path):
    try:
        import torch
    except ImportError as error:
        raise ImportError(f'{str(path)!r} needs torch to be read: pip install "keras_convnextv2[torch]"') from error
    try:
        # the authors' files keep their command line in an argparse.Namespace; nothing else may be built from a file
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error):
            raise ValueError(
                f"{str(path)!r} was refused: it would run code or build objects other than arrays ({_reason(error)})"
            ) from error
        raise _damaged(path, error) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise _damaged(path, error) from error
    tensors = _state_dict(content, path)

    def read(name):
        tensor = tensors[name].detach()
        return tensor.float().numpy()

    yield Arrays({name: tuple(tensor.shape) for name, tensor in tensors.items()}, read)


_OPENERS = {".safetensors": _open_safetensors, ".h5": _open_h5}
_NUMBERED = re.compile(r"\b(stage|conv_ne_xt_v2_block)/")  # Keras numbers what is alike, but not the first


def _state_dict(content, path):
    if isinstance(content, Mapping):
        content = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not all(hasattr(value, "detach") for value in content.values()):
        keys = sorted(map(str, content))[:5] if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{str(path)!r} must hold named arrays, by themselves or under 'model'. Received: {keys!r}")
    return dict(content)


def _damaged(path, error):
    return ValueError(f"{str(path)!r} is damaged or cut off ({_reason(error)})")


def _reason(error):
    """What a library said, in one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Unsupported" in line] or lines or [type(error).__name__]
    return telling[0].split(". Please")[0][:160]


def finite_or_raise(arrays, names, where):
    """Raises and names the arrays that hold NaN or infinity."""
    bad = [name for name in names if not np.isfinite(arrays.read(name)).all()]
    if bad:
        raise ValueError(f"{where} has values that are not finite in {', '.join(map(repr, bad[:3]))}")
