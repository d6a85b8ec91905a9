"""What `remat=True` costs and saves in supervised training: `python -m benchmarks.remat`, `--memory` for the peak."""

from benchmarks.contest import parse_with_memory, parser, run
from benchmarks.peers import BACKENDS, contests


def with_and_without(backend):
    # on TensorFlow, Keras recomputes in compiled programs alone
    compiled = {"jit": True} if backend == "tensorflow" else {}
    return [
        {
            **{"name": name, "library": "package", "backend": backend},
            "task": {"task": "train", "remat": remat, **compiled},
        }
        for name, remat in (("activations kept", False), ("remat=True", True))
    ]


if __name__ == "__main__":
    what = "Recomputing each block in the backward pass."
    options, environment = parse_with_memory(parser(what, sizes=["tiny"], batch=[8], rounds=5))
    run("remat", contests("remat", with_and_without, options, BACKENDS, environment), options)
