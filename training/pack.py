"""Packs a folder of pictures once, for sets that are too large to be listed at every start.

    python -m training.pack --data folder:PATH --to PACKED

--data records:PACKED takes it from then on. A call that was stopped is continued by the same call: files that are
whole stay. Pictures are copied as they are, decoded by nobody.
"""

import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import sys
import threading
import time

import numpy as np
from absl import app, flags

from keras_convnextv2.whole import write_whole
from training.command import BAD_INPUT, exit_code, require_flags_only
from training.data.decode import printable
from training.data.folder import HELD_OUT, folders_of_classes, listed, splits_of
from training.data.records import MANIFEST, UNFINISHED, command, labels_file, module, read_manifest, read_plan
from training.logs import Terminal, duration
from training.workdir import locked, write_json

FILES = 256  # of a split, at most: each stays open while it is read from, and a process may often open 1024
PICTURES = 4096  # in a file, unless that makes too many
LOCK = ".lock"  # hidden: it is no part of the set
EVERY = 5.0  # seconds between two lines of progress


class Interrupted(Exception):
    """Another thread has failed, or the program was asked to stop."""


def pack(data, to, *, shard_size=0, validation_split=HELD_OUT, unlabelled=False, workers=None, say):
    """Packs the folder of `data`, or goes on with it.

    Args:
        data: folder:PATH.
        to: the folder to write.
        shard_size: pictures in a file; 0: 4096, or as many as 256 files need.
        validation_split: as of `open_source`.
        unlabelled: all pictures below PATH, without classes; else the splits that the folder has.
        workers: files that are written at a time; None: one a core.
    """
    kind, _, source = data.partition(":")
    if kind != "folder" or not source:
        raise ValueError(f"--data must be folder:PATH, which is what can be packed. Received: {data!r}")
    root = pathlib.Path(to).expanduser()
    settings = {"shard_size": shard_size, "validation_split": validation_split, "unlabelled": unlabelled}
    asked = {"data": data, "settings": settings}
    if not unlabelled and not any((root / name).exists() for name in (MANIFEST, UNFINISHED)):
        _require_no_class(root, source)
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(locked(root / LOCK, "--to")):
        if not (root / MANIFEST).exists():
            if not (root / UNFINISHED).exists():
                _plan(root, source, asked, say)
            plan = _same(read_plan(root / UNFINISHED), asked, root)
            _write_files(root, os.path.expanduser(source), plan, workers, say)
            write_json(root / MANIFEST, plan)  # from here on it is a set
        manifest = _same(read_plan(root / MANIFEST), asked, root)
        for rest in (root / UNFINISHED, *root.glob("*.names")):
            rest.unlink(missing_ok=True)
    counts = ", ".join(f"{split['count']:,} {name}" for name, split in manifest["splits"].items())
    say(f"packed: {counts}. Take it with --data records:{to}")


def check(to, workers=None, say=None):
    """Raises unless every file of a packed set has its checksum."""
    root = pathlib.Path(to).expanduser()
    files = [file for split in read_manifest(root)["splits"].values() for file in split["files"]]
    bad = []
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        digests = pool.map(lambda file: _digest(root / file["name"]), files)
        for done, (file, digest) in enumerate(zip(files, digests, strict=True), 1):
            bad += [file["name"]] * (digest != file["sha256"])
            say(f"checked {done} of {len(files)} files", progress=True)
    if bad:
        raise ValueError(f"every file of {to} must have its checksum. Received: {len(bad)} without: {', '.join(bad)}")
    say(f"all {len(files)} files have their checksums")


def _require_no_class(root, source):
    """Raises where the packed set would lie among the folders of the classes, as one of them."""
    place = os.path.realpath(root.parent)
    if not root.name.startswith(".") and place in map(os.path.realpath, folders_of_classes(source)):
        raise ValueError(
            f"--to must not lie among the classes of --data, of which it would be one. Received: {str(root)!r}. "
            "Try a folder beside that of --data."
        )


def _same(plan, asked, root):
    """The plan, which must be of this call."""
    if any(plan[key] != value for key, value in asked.items()):
        raise ValueError(f"--to must not hold another set. Received: {str(root)!r}, of: {command(plan, root)}")
    return plan


def _plan(root, source, asked, say):
    """Lists the folder, and writes which picture goes into which file: that is not done again when packing goes on."""
    settings, source = asked["settings"], os.path.expanduser(source)
    say(f"listing {source}")
    plan = {**asked, "classes": [], "splits": {}}
    for split in ("unlabelled",) if settings["unlabelled"] else splits_of(source):
        pictures, classes, labels = listed(source, split, settings["validation_split"])
        plan["classes"] = list(classes) or plan["classes"]
        count, size = len(pictures), settings["shard_size"]
        parts = -(-count // (size or max(PICTURES, -(-count // FILES))))
        files = []
        for first, last in itertools.pairwise(count * part // parts for part in range(parts + 1)):
            name = f"{split}-{len(files):05d}-of-{parts:05d}.array_record"
            own = (None,) * (last - first) if labels is None else labels[first:last]
            paths = (os.path.relpath(file, source) for file in pictures[first:last])
            rows = list(zip(paths, own, strict=True))
            write_whole({_names(root, name): lambda part, rows=rows: _write_rows(part, rows)})
            files.append({"name": name, "records": last - first})
        if labels is not None:
            write_whole({labels_file(root, split): lambda part, labels=labels: _save(part, labels)})
        plan["splits"][split] = {"count": count, "files": files}
        say(f"{count:,} pictures of {split}, in {parts} files")
    write_json(root / UNFINISHED, plan)


def _names(root, file):
    return root / f"{file}.names"


def _write_rows(path, rows):
    with open(path, "w", encoding="ascii") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)


def _save(path, labels):
    with open(path, "wb") as file:  # np.save would give the path another ending
        np.save(file, np.asarray(labels, "int32"))


def _write_files(root, source, plan, workers, say):
    """Writes the files that are not there yet; the plan knows each one by its checksum."""
    files = [file for split in plan["splits"].values() for file in split["files"]]
    left = [file for file in files if "sha256" not in file]
    total, done = sum(file["records"] for file in left), {}
    stop, start = threading.Event(), time.monotonic()
    if len(left) < len(files):
        say(f"going on: {len(files) - len(left)} of {len(files)} files are there")
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        pending = {pool.submit(_write_file, root, source, file["name"], done, stop): file for file in left}
        try:
            while pending:
                ready, _ = concurrent.futures.wait(pending, EVERY, concurrent.futures.FIRST_COMPLETED)
                for future in ready:
                    pending.pop(future).update(future.result())
                    write_json(root / UNFINISHED, plan)
                count = sum(done.values())
                rate = count / max(time.monotonic() - start, 1e-9)
                rest = duration((total - count) / rate) if count else "?"
                say(f"{count:,} of {total:,} pictures, {rate:,.0f} a second, {rest} left", progress=True)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _write_file(root, source, name, done, stop):
    """{"bytes", "sha256"} of an ArrayRecord file of the pictures that its list names; counts them in `done`."""
    facts = {}

    def write(part):
        writer = module().ArrayRecordWriter(str(part), "group_size:1,uncompressed")
        try:
            with open(_names(root, name), encoding="ascii") as lines:
                for number, line in enumerate(lines, 1):
                    if stop.is_set():
                        raise Interrupted
                    file, label = json.loads(line)
                    head = json.dumps({"name": file, "label": label}).encode()
                    writer.write(head + b"\n" + _content(os.path.join(source, file), root))
                    done[name] = number
        finally:
            writer.close()
        facts.update(bytes=part.stat().st_size, sha256=_digest(part))

    write_whole({root / name: write})
    return facts


def _content(file, root):
    """The bytes of a picture that was there when the folder was listed."""
    try:
        with open(file, "rb") as picture:
            return picture.read()
    except FileNotFoundError as error:
        rule = f"pictures must stay until they are packed. Received: {printable(file)}, which has gone"
        raise FileNotFoundError(f"{rule}. Put it back, or remove {str(root)!r} and pack again.") from error


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(argv):
    """The exit code."""
    return exit_code(lambda: _body(argv, flags.FLAGS), bad_input=(*BAD_INPUT, RuntimeError))  # the last: ArrayRecord's


def _body(argv, values):
    require_flags_only(argv)
    if not values.to or not (values.data or values.check):
        raise ValueError("--data folder:PATH and --to PATH must say what to pack, and where to.")
    workers = values.workers or None
    if values.check:
        check(values.to, workers, Terminal())
    else:
        settings = {key: values[key].value for key in ("shard_size", "validation_split", "unlabelled")}
        pack(values.data, values.to, **settings, workers=workers, say=Terminal())


if __name__ == "__main__":
    flags.DEFINE_string("data", None, "folder:PATH.")
    flags.DEFINE_string("to", None, "Folder of the packed set.")
    flags.DEFINE_integer("shard_size", 0, "Pictures in a file; 0: 4096, or as many as 256 files need.", 0)
    flags.DEFINE_float("validation_split", HELD_OUT, "Share that is held out of a folder without train and test.", 0, 1)
    flags.DEFINE_bool("unlabelled", False, "Pack every picture below PATH, without classes.")
    flags.DEFINE_integer("workers", 0, "Files that are written at a time; 0: one a core.", 0)
    flags.DEFINE_bool("check", False, "Compare the files of --to with their checksums, and stop.")
    app.run(lambda argv: sys.exit(main(argv)))
