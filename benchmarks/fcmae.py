"""FCMAE pre-training against its masked dense formulation and against supervised training of the same encoder.

`python -m benchmarks.fcmae`; `--memory` measures what a step holds beside model and optimizer instead of its time.
"""

from benchmarks.contest import parse_with_memory, parser, run
from benchmarks.peers import BACKENDS, contests


def methods(backend):
    return (
        {"name": "sparse", "library": "fcmae", "task": {"method": "sparse"}, "ours": True, "backend": backend},
        {"name": "masked dense", "library": "fcmae", "task": {"method": "dense"}, "backend": backend},
        {"name": "supervised", "library": "package", "task": {"task": "train"}, "backend": backend},
    )


if __name__ == "__main__":
    options, environment = parse_with_memory(parser("A whole pre-training step.", sizes=["tiny"], batch=[32], rounds=5))
    run("FCMAE", contests("FCMAE", methods, options, BACKENDS, environment), options)
