"""What memory that stays mapped between steps is worth: `python -m benchmarks.allocator` (Linux with glibc)."""

from benchmarks.contest import ALLOCATOR, Entry, parser, run
from benchmarks.peers import BACKENDS


def kept_and_returned(options):
    """{title: [Entry]}: each backend with the allocator's settings and with glibc's own."""
    found = {}
    for size in options.sizes:
        for batch in options.batch:
            task = {"task": "train", "size": size, "batch": batch, "side": options.side, "dtype": options.dtype}
            found[f"allocator: {size.capitalize()}, batch {batch}, {options.side} px, {options.dtype}"] = [
                Entry(name=name, library="package", task=task, ours=True, backend=b, environment=env)
                for b in BACKENDS
                for name, env in ((f"{b}, kept", {}), (f"{b}, glibc's own", dict.fromkeys(ALLOCATOR)))
            ]
    return found


if __name__ == "__main__":
    options = parser("Training steps with memory kept mapped, and without.", rounds=9).parse_args()
    run("allocator", kept_and_returned(options), options)
