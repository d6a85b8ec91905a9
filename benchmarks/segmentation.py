"""UPerNet against transformers', training step and inference: `python -m benchmarks.segmentation`."""

from benchmarks.contest import parser, run
from benchmarks.peers import BACKENDS, contests


def rows(task, part):
    """(backend or None) -> the entries of a contest."""

    def row(name, library, backend, ours=False, **more):
        task_of = {"task": task, "part": part, **more}
        return {"name": name, "library": library, "backend": backend, "ours": ours, "task": task_of}

    def entries(_):
        found = [row(f"this package, {b}", "upernet", b, ours=True) for b in BACKENDS]
        found += [row("this package, tensorflow with XLA", "upernet", "tensorflow", ours=True, jit=True)]
        found += [row("transformers", "transformers upernet", "torch")]
        return found + [row("transformers, torch.compile", "transformers upernet", "torch", compiled=True)]

    return entries


if __name__ == "__main__":
    options = parser("UPerNet at full size, and its backbone alone.", batch=[2])
    options.add_argument("--tasks", nargs="+", default=["train", "predict"], help="train, predict")
    options.add_argument("--parts", nargs="+", default=["whole", "backbone"], help="whole, backbone")
    options.set_defaults(side=512)
    options = options.parse_args()
    found = {}
    for task in options.tasks:
        for part in options.parts:
            found |= contests(f"{task}, {part}", rows(task, part), options)
    run("segmentation", found, options)
