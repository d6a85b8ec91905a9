"""A packed set as long as ImageNet-22K: `python -m benchmarks.records`.

The index is as long as that of 14,197,122 pictures in 256 files of 21,841 classes; the files are links to two, which
hold drawn pictures of 64 px over and over, so that little disk is needed. Beside it a set of 4000 in one file. Measured
in processes of their own: memory, seconds to the first batch, and those to choose one picture of each class.
"""

import argparse
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.contest import ENVIRONMENT, ROOT, machine
from benchmarks.worker import resident

COUNT, CLASSES, FILES = 14_197_122, 21_841, 256
BATCH, BATCHES, SIDE, THREADS = 64, 40, 224, 2  # 2560 pictures at random: all files are open


def make(folder, count, classes, files):
    """A packed set whose files are links to those of one or two lengths."""
    from PIL import Image

    from training.data.records import MANIFEST, labels_file, module
    from training.data.shapes import shapes

    encoded = []
    for image in shapes(200, "train")[0]:
        encoded.append(io.BytesIO())
        Image.fromarray(image).save(encoded[-1], "jpeg")
    labels = np.random.default_rng(0).integers(0, classes, count).astype("int32")
    folder.mkdir()
    entries, made = [], {}
    for number in range(files):
        first, last = (count * k // files for k in (number, number + 1))
        if last - first not in made:
            made[last - first] = folder / f"pictures-{last - first}"
            writer = module().ArrayRecordWriter(str(made[last - first]), "group_size:1,uncompressed")
            for k in range(last - first):
                head = json.dumps({"name": f"train/n{k:08d}/n{k:08d}_{k}.jpeg", "label": int(labels[k])}).encode()
                writer.write(head + b"\n" + encoded[k % len(encoded)].getvalue())
            writer.close()
        name = f"train-{number:05d}-of-{files:05d}.array_record"
        (folder / name).symlink_to(made[last - first])
        size = made[last - first].stat().st_size
        entries.append({"name": name, "records": last - first, "bytes": size, "sha256": ""})
    np.save(labels_file(folder, "train"), labels)
    splits = {"train": {"count": count, "files": entries}}
    names = [f"n{k:08d}" for k in range(classes)]
    manifest = {"data": "folder:made", "settings": {}, "classes": names, "splits": splits}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def measure(folder, processes):
    """What a process with threads, or its worker processes, take for a set: a dict."""
    from training import data

    augmented = data.classification_example(data.Augmentation((SIDE, SIDE)))

    def example(rng, picture, target):
        return {**augmented(rng, picture, target), "resident": np.float64(resident("VmRSS"))}

    imports, start = resident("VmRSS"), time.perf_counter()
    source = data.open_source(f"records:{folder}", "train", keep=False)
    sizes = {"batch_size": BATCH, "seed": 0, "first_step": 1000, "steps": BATCHES}
    kinds = {"processes": processes} if processes else {"workers": THREADS}
    first, highest = None, 0.0
    for batch in data.training_batches(source, example, **sizes, **kinds):
        first = first or time.perf_counter() - start
        highest = max(highest, float(batch["resident"].max()))
    start = time.perf_counter()
    data.take_per_class(source, 1, seed=0)
    choosing = time.perf_counter() - start
    return {"imports": imports, "first batch": first, "resident": highest, "choosing": choosing}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--measure", help="of this folder alone; for processes of this program")
    options.add_argument("--processes", type=int, default=0, help="worker processes; 0: threads")
    options = options.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.processes)))
        return
    print(f"{machine()}; {COUNT:,} pictures in {FILES} files, batches of {BATCH} at {SIDE} px\n")
    columns = "resident after imports, MB | reading, MB | first batch, s | one of each class, s"
    print(f"| | {columns} |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, sizes in {"4000": (4000, 10, 1), f"{COUNT:,}": (COUNT, CLASSES, FILES)}.items():
            make(pathlib.Path(folder, name), *sizes)
            for kind, processes in (("two threads", 0), ("each of two worker processes", 2)):
                got = _measured(os.path.join(folder, name), processes)
                imports = "" if processes else f"{got['imports']:.0f}"
                numbers = f"{got['resident']:.0f} | {got['first batch']:.1f} | {got['choosing']:.1f}"
                print(f"| {name} pictures, {kind} | {imports} | {numbers} |", flush=True)


def _measured(folder, processes):
    command = [sys.executable, "-m", "benchmarks.records", "--measure", folder, "--processes", str(processes)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
