"""`records:PATH`: a set that `python -m training.pack` has packed.

PATH/manifest.json: the classes, and of each split its count and its files with their records, bytes and SHA-256.
PATH/train-00000-of-00256.array_record: a record is a line of JSON, {"name": ..., "label": ...}, and after it the
picture's file as it was. PATH/train.labels.npy: int32, the labels of all records, for whoever asks for all at once.
"""

import bisect
import functools
import itertools
import json
import pathlib
import threading
import zlib

import numpy as np

from training.data.decode import Encoded, UnreadableImage, printable
from training.data.folder import in_split
from training.data.picture_source import MEMORY_LIMIT, PictureSource, fit_in_memory
from training.fields import command_line

MANIFEST, UNFINISHED = "manifest.json", "unfinished.json"
_RANDOM_ACCESS = {"options": "readahead_buffer_size:0,max_parallelism:0", "file_reader_buffer_size": 1 << 15}


def open_records(path, split, channels, keep=None, validation_split=None):
    """The pictures of one split, in the order of the folder that they come from.

    Args:
        validation_split: must be that by which packing divided the folder, where it did; None: whatever it was.
    """
    root = pathlib.Path(path).expanduser()
    manifest = read_manifest(root)
    held = "train" if split == "unlabelled" and "unlabelled" not in manifest["splits"] else split
    if held not in manifest["splits"]:
        there = ", ".join(manifest["splits"])
        raise ValueError(f"{split} pictures need a split {held}. Received: records:{path}, which has {there}")
    files = manifest["splits"][held]["files"]
    _require_whole(root, files)
    shards = Shards([str(root / file["name"]) for file in files], [file["records"] for file in files])
    labelled = split != "unlabelled"
    held_out = manifest["settings"]["validation_split"] if labelled and _was_divided(shards) else None
    if held_out is not None and validation_split is not None:
        _require_divided_by(validation_split, path, held_out)

    def read(index):
        head, _, picture = shards[index].partition(b"\n")
        head = json.loads(head)
        label = np.int32(head["label"]) if labelled else None
        return Encoded(picture, channels, f"{printable(head['name'])}, {shards.place(index)}"), label

    if keep is None:  # encoded, few pictures are larger than decoded
        small = sum(file["bytes"] for file in files) <= MEMORY_LIMIT
        keep = small and fit_in_memory(lambda index: read(index)[0], len(shards), channels)
    labels = functools.partial(_labels, labels_file(root, held), len(shards)) if labelled else None
    contents = functools.partial(zlib.crc32, json.dumps(files).encode())  # with the checksums of all
    kinds = {"channels": channels, "classes": manifest["classes"] if labelled else (), "labels": labels, "keep": keep}
    kinds |= {"contents": contents, "held_out": held_out}
    return PictureSource(f"records:{path} ({split})", read, len(shards), **kinds)


def _labels(path, count):
    """int32 (count,), not read before it is used."""
    try:
        labels = np.load(path, mmap_mode="r")
        received = f"{labels.dtype} {labels.shape}"
    except (ValueError, EOFError, OSError) as error:
        labels, received = None, "no such file" if isinstance(error, FileNotFoundError) else "a damaged file"
    if labels is None or labels.dtype != "int32" or labels.shape != (count,):
        raise ValueError(
            f"{path} must hold int32 ({count},). Received: {received}. Copy it again, or pack the set again"
        )
    return labels


def _was_divided(shards):
    """Whether packing divided the folder: a train and a test of its own are as they are."""
    return not in_split(json.loads(shards[0].partition(b"\n")[0])["name"])


def _require_divided_by(share, path, held):
    """Raises where packing has held out another share."""
    if share == held:
        return
    rule = f"validation_split must be {held}, by which records:{path} was divided when it was packed"
    hint = f"Try --set validation_split={held}, or pack with --validation_split {share}"
    raise ValueError(f"{rule}. Received: {share}. {hint}")


def labels_file(root, split):
    return root / f"{split}.labels.npy"


class Shards:
    """The records of ArrayRecord files, by their number over all files.

    A file is opened when it is first read from. Threads may share it, and processes are sent its names alone.
    """

    def __init__(self, paths, counts):
        self._paths, self._ends = list(paths), list(itertools.accumulate(counts))
        self._readers, self._lock = {}, threading.Lock()

    def __len__(self):
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index):
        """The bytes of a record; raises UnreadableImage with the file and the number in it."""
        shard, number = self._find(index)
        try:
            # by a range, since for a list of numbers the reader looks through all records of the file
            (record,) = self._reader(shard).read(number, number + 1)
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).replace("\n", " ")
            raise UnreadableImage(f"cannot read {self.place(index)}: {reason}") from error
        return record

    def place(self, index):
        """What an error calls a record."""
        shard, number = self._find(index)
        return f"record {number} of {self._paths[shard]}"

    def _find(self, index):
        shard = bisect.bisect_right(self._ends, index)
        return shard, int(index) - (self._ends[shard - 1] if shard else 0)

    def _reader(self, shard):
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = module().ArrayRecordReader(self._paths[shard], **_RANDOM_ACCESS)
            return self._readers[shard]

    def __getstate__(self):
        return {**vars(self), "_readers": {}, "_lock": None}

    def __setstate__(self, state):
        vars(self).update(state, _lock=threading.Lock())


def module():
    """ArrayRecord's reader and writer."""
    try:
        from array_record.python import array_record_module
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("ArrayRecord files need array_record: pip install array_record") from error
    return array_record_module


def read_manifest(root):
    """That of a set which is packed to the end."""
    if (root / MANIFEST).is_file():
        return read_plan(root / MANIFEST)
    if (root / UNFINISHED).is_file():
        plan = read_plan(root / UNFINISHED)
        files = [file for split in plan["splits"].values() for file in split["files"]]
        done = sum("sha256" in file for file in files)
        raise ValueError(
            f"records:PATH must be packed to the end. Received: {str(root)!r}, with {done} of {len(files)} files. "
            f"Go on with: {command(plan, root)}"
        )
    raise FileNotFoundError(
        f"records:PATH needs a folder that python -m training.pack has written ({MANIFEST}). Received: {str(root)!r}"
    )


def command(plan, root):
    """What packs a set, or goes on with it."""
    options = [f"--{key}={value}" for key, value in plan["settings"].items()]
    return command_line("pack", "--data", plan["data"], "--to", root, *options)


def read_plan(file):
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        plan = None
    if not isinstance(plan, dict) or not {"data", "settings", "classes", "splits"} <= plan.keys():
        raise ValueError(f"{str(file)!r} must say what a packed set holds. Received: a damaged file")
    return plan


def _require_whole(root, files):
    """Raises where a file is not there or has another length: what its checksums are for takes `--check`."""
    for file in files:
        path = root / file["name"]
        size = path.stat().st_size if path.is_file() else None
        if size != file["bytes"]:
            received = "no such file" if size is None else f"{size:,}"
            raise ValueError(f"{path} must have {file['bytes']:,} bytes. Received: {received}. Copy or pack it again")
