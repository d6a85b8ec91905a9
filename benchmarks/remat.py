"""What `remat=True` costs and saves in supervised training: `python -m benchmarks.remat`, `--memory` for the peak."""

import functools

from benchmarks.contest import Contestant, add_memory, parser, run
from benchmarks.peers import BACKENDS


def with_and_without(options, environment):
    contests = {}
    for backend in BACKENDS:
        for size in options.sizes:
            for batch in options.batch:
                sizes = {"task": "train", "size": size, "batch": batch, "side": options.side, "dtype": options.dtype}
                rows = [
                    # on TensorFlow, Keras recomputes in compiled programs alone
                    (name, {**sizes, "remat": remat, **({"jit": True} if backend == "tensorflow" else {})})
                    for name, remat in (("activations kept", False), ("remat=True", True))
                ]
                title = f"remat on {backend}: {size.capitalize()}, batch {batch}, {options.side} px, {options.dtype}"
                contests[title] = [
                    (name, functools.partial(Contestant, name, "supervised", task, backend, environment))
                    for name, task in rows
                ]
    return contests


if __name__ == "__main__":
    options = parser("Recomputing each block in the backward pass.", sizes=["tiny"], batch=[8], rounds=5)
    options.add_argument("--memory", action="store_true", help="peak memory of a step instead of its time")
    options = options.parse_args()
    run("remat", with_and_without(options, add_memory(options)), options)
