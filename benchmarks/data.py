"""Input pipelines against a PyTorch DataLoader and timm's: `KERAS_CONVNEXTV2_DATA=FOLDER python -m benchmarks.data`.

The folder holds imagenet_photos.tar, JPEG photos as they are. Both need torchvision.
"""

import argparse
import os
import pathlib
import tarfile
import tempfile

from benchmarks.contest import Entry, run
from training.pack import pack


def unpack(folder):
    """The photos as FOLDER/train/<class>/*, one class each; having been written just now, they are in the cache."""
    data = os.environ.get("KERAS_CONVNEXTV2_DATA")
    if not data:
        raise SystemExit("KERAS_CONVNEXTV2_DATA must name the folder that holds imagenet_photos.tar")
    with tarfile.open(pathlib.Path(data) / "imagenet_photos.tar") as archive:
        for member in archive:
            name = pathlib.Path(member.name).name
            path = pathlib.Path(folder, "train", name.split("_")[0], name)
            path.parent.mkdir(parents=True)
            path.write_bytes(archive.extractfile(member).read())


def contests(folder, options):
    """{title: [Entry]}"""
    sizes = {name: getattr(options, name) for name in ("batch", "side", "workers", "batches")}
    ours, theirs = {"library": "package pipeline", "ours": True}, {"library": "torch pipeline"}
    package = [
        ("this package", ours, {}),
        ("this package, records", ours, {"packed": True}),
        ("this package, processes", ours, {"processes": True}),
        ("this package, decoded pictures kept", ours, {"keep": True}),
    ]
    plain = [
        ("DataLoader, uint8 (PILToTensor)", theirs, {}),
        ("DataLoader, float32 (ToTensor)", theirs, {"floats": True}),
    ]
    timm = {"library": "timm pipeline"}
    others = {"recipe": [("timm", timm, {}), ("timm, prefetcher", timm, {"prefetcher": True})]}
    return {
        f"{task}: {options.batches} batches of {options.batch}, {options.side} px, {options.workers} workers": [
            Entry(name=name, **library, task={"task": task, "folder": folder, **sizes, **more}, pause=True)
            for name, library, more in package + others.get(task, plain)
        ]
        for task in options.tasks
    }


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--tasks", nargs="+", default=["pretrain", "finetune", "recipe"], help="what is made")
    options.add_argument("--batch", type=int, default=64, help="batch size")
    options.add_argument("--batches", type=int, default=8, help="batches in a step; many, since all read ahead")
    options.add_argument("--side", type=int, default=224, help="pixels of the square images")
    options.add_argument("--workers", type=int, default=2, help="threads or processes")
    options.add_argument("--rounds", type=int, default=15, help="measured steps of each contestant")
    options.add_argument("--only", nargs="*", help="take only contestants whose name contains one of these")
    options.add_argument("--json", type=pathlib.Path, help="write everything measured there")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unpack(folder)
        pack(f"folder:{folder}", f"{folder}/packed", say=lambda text, progress=False: None)
        run("input pipelines", contests(folder, options), options)


if __name__ == "__main__":
    main()
