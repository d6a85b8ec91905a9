"""Who takes part: this package on every backend, and what a user would pick instead."""

from benchmarks.contest import Entry

BACKENDS = ("tensorflow", "jax", "torch")


def contests(what, rows, options, backends=(None,), environment=None):
    """{title: [Entry]}: a contest for each backend, size and batch of the options.

    `rows(backend)` gives the fields of its entries; a task gets the sizes.
    """
    found = {}
    for backend in backends:
        for size in options.sizes:
            for batch in options.batch:
                sizes = {"size": size, "batch": batch, "side": options.side, "dtype": options.dtype}
                place = f" on {backend}" if backend else ""
                title = f"{what}{place}: {size.capitalize()}, batch {batch}, {options.side} px, {options.dtype}"
                found[title] = [
                    Entry(**{**row, "task": {**sizes, **row["task"]}}, environment=environment or {})
                    for row in rows(backend)
                ]
    return found


def everybody(task, options):
    """Contests of this package on all backends with all that a user would pick instead."""

    def row(name, library, backend, ours=False, **more):
        return {"name": name, "library": library, "backend": backend, "ours": ours, "task": {"task": task, **more}}

    def rows(_):
        found = [row(f"this package, {b}", "package", b, ours=True) for b in BACKENDS]
        # Keras' "auto" leaves XLA off where TensorFlow sees no GPU
        found += [row("this package, tensorflow with XLA", "package", "tensorflow", ours=True, jit=True)]
        found += [row(f"stock Keras layers, {b}", "stock_keras", b) for b in BACKENDS]
        for library in ("transformers", "timm"):
            # their processes import this package too, for its sizes: then with the backend that is there anyway
            found += [row(library, library, "torch")]
            found += [row(f"{library}, torch.compile", library, "torch", compiled=True)]
        return found

    return contests(task, rows, options)
