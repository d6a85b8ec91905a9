"""Who takes part: this package on every backend, and what a user would pick instead."""

import functools

from benchmarks.contest import Contestant

BACKENDS = ("tensorflow", "jax", "torch")


def everybody(task, options):
    """{title: [(name, function that starts it)]} for every size and batch of the options."""
    contests = {}
    for size in options.sizes:
        for batch in options.batch:
            sizes = {"task": task, "size": size, "batch": batch, "side": options.side, "dtype": options.dtype}
            rows = [(f"this package, {b}", "ours", b, {}) for b in BACKENDS]
            # Keras' "auto" leaves XLA off where TensorFlow sees no GPU
            rows += [("this package, tensorflow with XLA", "ours", "tensorflow", {"jit": True})]
            rows += [(f"stock Keras layers, {b}", "stock_keras", b, {}) for b in BACKENDS]
            for library in ("transformers", "timm"):
                # their processes import this package too, for its sizes: then with the backend that is there anyway
                rows += [(library, library, "torch", {})]
                rows += [(f"{library}, torch.compile", library, "torch", {"compiled": True})]
            title = f"{task}: {size.capitalize()}, batch {batch}, {options.side} px, {options.dtype}"
            contests[title] = [
                (name, functools.partial(Contestant, name, library, {**sizes, **more}, backend))
                for name, library, backend, more in rows
            ]
    return contests
