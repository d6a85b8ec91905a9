"""Files of arrays: names and shapes first, then one array at a time. Nothing in a file is ever executed."""

import argparse
import contextlib
import dataclasses
import io
import pathlib
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np

HUB_FILE = "model.safetensors"  # a network's file on the hub, and the only one that transformers finds
TORCH = (".pt", ".pth", ".pth.tar", ".ckpt", ".bin")
ENDINGS = (".safetensors", *TORCH, ".weights.h5", ".keras")
KINDS = ", ".join(ENDINGS)
CONTAINERS = ("model", "state_dict")  # where a training script puts the weights, beside optimizer and arguments
NUMBERS = ("float16", "bfloat16", "float32", "float64")  # the types of arrays that are read
SAFETENSORS_NUMBERS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict")  # and where they put its moving average
MAPPED = 1 << 26  # bytes of a file that stay mapped: read pages count as memory of the process until it is closed


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Named arrays that are read only when asked for."""

    shapes: dict  # name: tuple
    types: dict  # name: str, one of NUMBERS or what is not read
    read: Callable  # name -> array of float32


def without_prefix(arrays, prefix):
    """The Arrays under names without a prefix that all of them have."""
    shapes, types = ({name.removeprefix(prefix): x for name, x in d.items()} for d in (arrays.shapes, arrays.types))
    return Arrays(shapes, types, lambda name: arrays.read(prefix + name))


def of_names(arrays, names):
    """The Arrays of these names alone."""
    return Arrays({n: arrays.shapes[n] for n in names}, {n: arrays.types[n] for n in names}, arrays.read)


@contextlib.contextmanager
def open_arrays(path, ema=False):
    """The Arrays of a file by its ending, with `ema` its moving average; it stays open inside the `with`."""
    in_torch = path.name.endswith(TORCH)
    if ema and not in_torch:
        raise ValueError(
            f"ema=True reads the moving average of a torch file ({', '.join(TORCH)}). Received: {str(path)!r}"
        )
    with _open_torch(path, ema) if in_torch else _OPENERS[path.suffix](path) as arrays:
        yield arrays


def existing_file(path):
    """The path of a weights file; raises when there is none or its ending is not one that can be read."""
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"weights must be a file, {str(path)!r} is a folder: name the file in it ({KINDS})")
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {str(path)!r}. What can be read: {KINDS}")
    if not path.name.endswith(ENDINGS):
        raise ValueError(f"weights must end in one of {KINDS}. Received: {str(path)!r}")
    return path


@contextlib.contextmanager
def _open_safetensors(path):
    import ml_dtypes  # noqa: F401  keras depends on it; its import makes numpy know the name bfloat16

    try:
        import safetensors
    except ImportError as error:
        raise ImportError(f'{str(path)!r} needs safetensors: pip install "keras_convnextv2[weights]"') from error

    def opened():
        try:
            return safetensors.safe_open(path, framework="numpy")
        except safetensors.SafetensorError as error:
            raise _damaged(path, error) from error

    with contextlib.ExitStack() as stack:
        file, mapped = stack.enter_context(opened()), 0

        def read(name):
            nonlocal file, mapped
            if mapped > MAPPED:
                stack.close()
                file, mapped = stack.enter_context(opened()), 0
            array = file.get_tensor(name)
            mapped += array.nbytes
            return array.astype("float32", copy=False)

        slices = {name: file.get_slice(name) for name in file.keys()}
        types = {name: SAFETENSORS_NUMBERS.get(held.get_dtype(), held.get_dtype()) for name, held in slices.items()}
        yield Arrays({name: tuple(held.get_shape()) for name, held in slices.items()}, types, read)


@contextlib.contextmanager
def _open_keras(path):
    """The weights in a .keras archive, which are a .weights.h5; the network that it describes is not built."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = io.BytesIO(archive.read("model.weights.h5"))
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, zlib.error) as error:
        raise _damaged(path, error) from error
    with _open_h5(path, content) as arrays:
        yield arrays


@contextlib.contextmanager
def _open_h5(path, content=None):
    import h5py  # keras depends on both
    import ml_dtypes

    try:
        file = h5py.File(content or path)
    except OSError as error:
        raise _damaged(path, error) from error
    with file:
        found = {}

        def note(name, item):
            if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                raise ValueError(f"{str(path)!r} must hold its own numbers. Received: {name!r}, stored in another file")
            # a trained model's file holds its optimizer too; unsigned integers are the states of random seeds
            if isinstance(item, h5py.Dataset) and item.dtype.kind != "u" and not name.startswith("optimizer/"):
                found[_NUMBERED.sub(r"\1_0/", name)] = item

        file.visititems(note)

        def read(name):
            raw_bytes = found[name].attrs.get("dtype") == "bfloat16"  # Keras' mark: HDF5 has no such type
            return np.array(found[name], dtype=ml_dtypes.bfloat16 if raw_bytes else None).astype("float32", copy=False)

        types = {name: item.attrs.get("dtype") or str(item.dtype) for name, item in found.items()}
        yield Arrays({name: tuple(item.shape) for name, item in found.items()}, types, read)


@contextlib.contextmanager
def _open_torch(path, ema=False):
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
    except Exception as error:  # what a cut pickle makes of its reader: IndexError, struct.error, ...
        raise _damaged(path, error) from error
    tensors = _state_dict(content, path, ema)

    def read(name):
        tensor = tensors[name].detach()
        return tensor.float().numpy()

    types = {name: _torch_type(tensor) for name, tensor in tensors.items()}
    yield Arrays({name: tuple(tensor.shape) for name, tensor in tensors.items()}, types, read)


def _torch_type(tensor):
    """Its number type; what holds no row of numbers, a sparse or a meta tensor, is said with it."""
    numbers, layout = (str(kind).removeprefix("torch.") for kind in (tensor.dtype, tensor.layout))
    return " ".join(("meta",) * tensor.is_meta + (layout,) * (layout != "strided") + (numbers,))


_OPENERS = {".safetensors": _open_safetensors, ".keras": _open_keras, ".h5": _open_h5}
# Keras numbers what is alike, but not the first
_NUMBERED = re.compile(r"\b(stage|conv_ne_xt_v2_block|layer_norm|conv_norm|conv2d)/")


def _state_dict(content, path, ema):
    named = content if isinstance(content, Mapping) else {}
    held = next((named[key] for key in (AVERAGES if ema else CONTAINERS) if isinstance(named.get(key), Mapping)), None)
    if ema and held is None:
        raise ValueError(f"{str(path)!r} must hold 'model_ema' for ema=True. Received: {_keys(content)}")
    held = content if held is None else held
    if not isinstance(held, Mapping) or not all(isinstance(k, str) and hasattr(v, "detach") for k, v in held.items()):
        raise ValueError(
            f"{str(path)!r} must hold named arrays, by themselves or under 'model'. Received: {_keys(held)}"
        )
    return dict(held)


def _keys(content):
    return repr(sorted(content, key=str)[:5] if isinstance(content, Mapping) else type(content).__name__)


def _damaged(path, error):
    return ValueError(f"{str(path)!r} is damaged or cut off ({_reason(error)})")


def _reason(error):
    """What a library said, in one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Unsupported" in line] or lines or [type(error).__name__]
    return telling[0].split(". Please")[0][:160]


def numbers_or_raise(arrays, names, where):
    """Raises and names an array that is of no type that can be read."""
    for name in names:
        if arrays.types[name] not in NUMBERS:
            raise ValueError(f"{where} must hold {', '.join(NUMBERS)} only. Received: {name!r} of {arrays.types[name]}")


def finite_or_raise(arrays, names, where):
    """Raises and names the arrays that hold NaN or infinity."""
    bad = [name for name in names if not np.isfinite(arrays.read(name)).all()]
    if bad:
        raise ValueError(f"{where} has values that are not finite in {', '.join(map(repr, bad[:3]))}")
