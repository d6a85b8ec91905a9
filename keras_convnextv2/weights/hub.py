"""From what a user names (a path, a preset, a repository of the Hugging Face hub) to a file on this machine."""

import hashlib
import logging
import os
import pathlib
import re

from keras_convnextv2.weights.presets import UnknownPreset, find_preset, list_presets
from keras_convnextv2.weights.readers import ENDINGS, HUB_FILE, KINDS, existing_file

HUB = "hf:"
FILES = (HUB_FILE, "pytorch_model.bin")  # what a repository is searched for, in this order
_PART = r"\w[\w.-]*"  # "..", for one, is none
_ADDRESS = re.compile(rf"(?P<repository>{_PART}/{_PART})(?:/(?P<file>{_PART}(?:/{_PART})*))?")

_licences_said = set()  # in this process


def weights_file(source, size=None, classes=None):
    """The file that `source` names, downloaded where needed.

    Downloads go through huggingface-hub: its cache (HF_HOME, HF_HUB_CACHE), its offline mode (HF_HUB_OFFLINE), its
    mirror (HF_ENDPOINT), its progress bar. The hub sends a sha256 for large files and huggingface-hub checks only the
    size; a fresh download is checked here where the cache says the sum (it does where it can make symbolic links).

    Args:
        source: the path of a file; the name of a preset; "hf:owner/name" for the model.safetensors or the
            pytorch_model.bin of any repository; "hf:owner/name/file".
        size: of the model, for preset names without it: "atto" ... "huge". Other text is what to say where a preset
            is asked for.
        classes: of the model's head, which a preset must then have too unless it has no head; None for any.
    Returns:
        A `pathlib.Path`.
    Raises:
        FileNotFoundError: no such file, preset, or repository; or neither network nor a copy in the cache.
        ImportError: huggingface-hub is missing.
        OSError: the download failed on the way.
        ValueError: the preset is of another size or has another head; the file is not what the hub says it is; no name
            of a repository.
    """
    if not isinstance(source, str) or source.endswith(ENDINGS) and not source.startswith(HUB):
        return existing_file(source)
    if source.startswith(HUB):
        return _from_address(source)
    if pathlib.Path(source).expanduser().is_file():  # a folder may well be called "imagenet"
        return existing_file(source)
    try:
        preset = find_preset(source, size)
    except UnknownPreset as error:
        if os.path.exists(source):
            return existing_file(source)
        raise FileNotFoundError(f"no weights file at {source!r}, and {error}. What can be read: {KINDS}") from error
    _check_head(preset, source, classes)
    return _download(repr(source), preset.hub, (preset.file,))


def _check_head(preset, source, classes):
    if preset.classes and classes not in (None, preset.classes):  # before hundreds of megabytes are fetched
        raise ValueError(
            f"preset {source!r} has a head of {preset.classes} classes, the model one of {classes}: "
            f"keras_convnextv2.load_weights(model, {source!r}, skip_head=True) leaves the model's head as it is"
        )


def _from_address(source):
    found = _ADDRESS.fullmatch(source.removeprefix(HUB))
    if not found:
        raise ValueError(f"{HUB} must be followed by owner/name or owner/name/file. Received: {source!r}")
    file = found["file"]
    if file and not file.endswith(ENDINGS):
        raise ValueError(f"weights must end in one of {KINDS}. Received: {source!r}")
    return _download(repr(source), found["repository"], (file,) if file else FILES)


def _download(who, repository, files):
    """The first of `files` that the repository has; `who` asks for it, in error messages."""
    url = f"https://huggingface.co/{repository}/resolve/main/{files[0]}"
    cure = f"download {url} elsewhere and give its path as weights="
    try:
        from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache
    except ImportError as error:
        raise ImportError(f'{who} needs huggingface-hub: pip install "keras_convnextv2[weights]", or {cure}') from error
    _say_licence(repository)
    failures = []
    for file in files:
        no_network = any(isinstance(failure, errors.LocalEntryNotFoundError) for failure in failures)
        try:
            cached = try_to_load_from_cache(repository, file)
            # without a network the next file can only be in the cache: not another half minute of tries
            path = pathlib.Path(hf_hub_download(repository, file, local_files_only=no_network))
        except errors.EntryNotFoundError as error:
            failures.append(error)
        except Exception as error:  # httpx's, httpx2's or hf_xet's, as huggingface-hub's version has it
            raise _failed(error, who, repository, files, cure) from error
        else:
            if str(path) != cached:
                _check_sum(path, who, cure)
            return existing_file(path)
    raise _failed(failures[0], who, repository, files, cure) from failures[0]


def _say_licence(repository):
    preset = next((preset for preset in list_presets() if preset.hub == repository), None)
    if preset and preset.licence not in _licences_said:
        _licences_said.add(preset.licence)
        logging.getLogger("keras_convnextv2").warning(
            "The published ConvNeXt V2 weights are under %s: not for commercial use.", preset.licence
        )


def _failed(error, who, repository, files, cure):
    """The one line for an error of huggingface-hub, as an exception to raise."""
    from huggingface_hub import errors

    cause = error.__cause__ or error
    kind = FileNotFoundError
    if isinstance(cause, errors.OfflineModeIsEnabled):
        reason = f"HF_HUB_OFFLINE is set and {' or '.join(files)} of {repository} is not in the cache"
    elif isinstance(error, errors.LocalEntryNotFoundError):
        reason = f"{' or '.join(files)} of {repository} is not in the cache and the hub is out of reach, {_line(cause)}"
    elif isinstance(error, errors.GatedRepoError):
        reason = f"{repository} must be asked for on its page first"
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason = f"the hub has no repository {repository}, or shows it only to its members"
    elif isinstance(error, errors.EntryNotFoundError):
        reason = f"{repository} has no {' or '.join(files)}"
    else:
        kind, reason = OSError, f"the download of {repository} failed, {_line(error)}"
    return kind(f"{who} cannot be loaded: {reason}; {cure}")


def _line(error):
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:160]}" if said else type(error).__name__


def _check_sum(path, who, cure):
    """Raises, and takes the file out of the cache, when its content is not what its sha256 there says."""
    if not path.is_symlink():
        return
    blob = path.parent / os.readlink(path)  # called by the ETag: the sha256 of a large file, a git hash of a small one
    if not re.fullmatch("[0-9a-f]{64}", blob.name):
        return
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != blob.name:
        path.unlink()
        blob.unlink()
        raise ValueError(
            f"{who} came with the sha256 {found[:12]}..., the hub says {blob.name[:12]}...: try again, or {cure}"
        )
