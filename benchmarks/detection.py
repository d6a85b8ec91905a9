"""Mask R-CNN beside torchvision's, training step and inference: `python -m benchmarks.detection`.

torchvision's operators come with the CUDA build of torch, which runs on a CPU too: an environment of its own has torch,
torchvision and timm from the package index, and what this package needs.
"""

from benchmarks.contest import parser, run
from benchmarks.peers import BACKENDS, contests


def rows(task, part):
    """(backend or None) -> the entries of a contest; of `regions`, ours alone, beside the whole."""

    def row(name, library, backend, ours=False, **more):
        return {"name": name, "library": library, "backend": backend, "ours": ours, "task": {"task": task, **more}}

    def entries(_):
        found = [row(f"this package, {b}", "mask_rcnn", b, ours=True, part=part) for b in BACKENDS]
        if part == "regions":
            return found + [row(f"the whole, {b}", "mask_rcnn", b) for b in BACKENDS]
        return found + [row("torchvision, backbone of timm", "torchvision mask_rcnn", "torch")]

    return entries


if __name__ == "__main__":
    options = parser("Mask R-CNN with the heads of COCO.", batch=[1])
    options.add_argument("--tasks", nargs="+", default=["train", "predict"], help="train, predict")
    options.add_argument(
        "--parts", nargs="+", default=["whole"], help="whole; regions: the share of suppression and RoIAlign in predict"
    )
    options.set_defaults(side=512)
    options = options.parse_args()
    found = {}
    for part in options.parts:
        for task in options.tasks if part == "whole" else ["predict"]:
            found |= contests(f"{task}, {part}", rows(task, part), options)
    run("detection", found, options)
