"""FCMAE pre-training against its masked dense formulation and against supervised training of the same encoder.

`python -m benchmarks.fcmae`; `--memory` measures what a step holds beside model and optimizer instead of its time.
"""

import functools

from benchmarks.contest import Contestant, add_memory, parser, run
from benchmarks.peers import BACKENDS


def methods(options, environment):
    """{title: [(name, function that starts it)]}, one contest for each backend, size and batch."""
    contests = {}
    for backend in BACKENDS:
        for size in options.sizes:
            for batch in options.batch:
                sizes = {"size": size, "batch": batch, "side": options.side, "dtype": options.dtype}
                rows = (
                    ("sparse", "fcmae", {"method": "sparse", **sizes}),
                    ("masked dense", "masked dense", {"method": "dense", **sizes}),
                    ("supervised", "supervised", {"task": "train", **sizes}),
                )
                title = f"FCMAE on {backend}: {size.capitalize()}, batch {batch}, {options.side} px, {options.dtype}"
                contests[title] = [
                    (name, functools.partial(Contestant, name, library, task, backend, environment))
                    for name, library, task in rows
                ]
    return contests


if __name__ == "__main__":
    options = parser("A whole pre-training step.", sizes=["tiny"], batch=[32], rounds=5)
    options.add_argument("--memory", action="store_true", help="peak memory of a step instead of its time")
    options = options.parse_args()
    run("FCMAE", methods(options, add_memory(options)), options)
