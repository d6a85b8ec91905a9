"""Who takes part: this package on every backend, and what a user would pick instead."""

import functools

from benchmarks.contest import Contestant

BACKENDS = ("tensorflow", "jax", "torch")


def contests(what, rows, options, backends=(None,), environment=None):
    """{title: [(name, function that starts it)]}: a contest for each backend, size and batch of the options.

    `rows(backend)` gives its contestants: (name, library, backend of Keras, what its task has beside the sizes).
    """
    found = {}
    for backend in backends:
        for size in options.sizes:
            for batch in options.batch:
                sizes = {"size": size, "batch": batch, "side": options.side, "dtype": options.dtype}
                place = f" on {backend}" if backend else ""
                title = f"{what}{place}: {size.capitalize()}, batch {batch}, {options.side} px, {options.dtype}"
                found[title] = [
                    (name, functools.partial(Contestant, name, library, {**sizes, **task}, of_keras, environment))
                    for name, library, of_keras, task in rows(backend)
                ]
    return found


def everybody(task, options):
    """Contests of this package on all backends with all that a user would pick instead."""

    def rows(_):
        found = [(f"this package, {b}", "ours", b, {}) for b in BACKENDS]
        # Keras' "auto" leaves XLA off where TensorFlow sees no GPU
        found += [("this package, tensorflow with XLA", "ours", "tensorflow", {"jit": True})]
        found += [(f"stock Keras layers, {b}", "stock_keras", b, {}) for b in BACKENDS]
        for library in ("transformers", "timm"):
            # their processes import this package too, for its sizes: then with the backend that is there anyway
            found += [(library, library, "torch", {})]
            found += [(f"{library}, torch.compile", library, "torch", {"compiled": True})]
        return [(name, library, of_keras, {"task": task, **more}) for name, library, of_keras, more in found]

    return contests(task, rows, options)
