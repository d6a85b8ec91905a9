"""The side of a contestant: builds its task, then runs one step for every line that it gets."""

import contextlib
import ctypes
import gc
import json
import os
import pathlib
import sys
import time

from benchmarks import contestants, detectors, loaders, pretraining, segmenters

LIBRARIES = {
    "package": contestants.package,
    "stock_keras": contestants.stock_keras,
    "transformers": contestants.transformers,
    "timm": contestants.timm,
    "fcmae": pretraining.fcmae,
    "upernet": segmenters.upernet,
    "transformers upernet": segmenters.transformers_upernet,
    "mask_rcnn": detectors.mask_rcnn,
    "torchvision mask_rcnn": detectors.torchvision_mask_rcnn,
    "package pipeline": loaders.our_pipeline,
    "torch pipeline": loaders.torch_pipeline,
    "timm pipeline": loaders.timm_pipeline,
}


def main(order):
    # What libraries print goes elsewhere: standard output is the line to the contest.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**reply):
        channel.write(json.dumps(reply) + "\n")
        channel.flush()

    start = time.perf_counter()
    try:
        step, facts = LIBRARIES[order["library"]](**order["task"])
        before = resident("VmRSS")
        step()
    except (ImportError, RuntimeError) as error:
        say(error=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}")
        return
    first = time.perf_counter() - start
    step()  # some compile a second time, for states that come out of the first step
    if os.environ.get("BENCHMARK_MEMORY"):
        facts = {**facts, "activations_mb": peak_of(step) - before}
    step()
    say(seconds=first, **facts)
    for _ in sys.stdin:
        start, busy = time.perf_counter(), processor_seconds()
        step()
        seconds = time.perf_counter() - start
        more = {"processor_seconds": processor_seconds() - busy} if "images" in facts else {}
        say(seconds=seconds / facts.get("steps", 1), **more)


def processor_seconds():
    """Those of this process and of all that it started, whether they still run or have ended."""
    ours = os.times()
    return ours.user + ours.system + ours.children_user + ours.children_system + _of_descendants(os.getpid())


def _of_descendants(pid):
    """Of running processes that this one started, and of theirs: no call tells before they have ended (Linux)."""
    parents, seconds = {}, {}
    for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = file.read_text().rpartition(")")[2].split()  # from the third field of proc(5) on
            number = int(file.parent.name)
            parents[number] = int(fields[1])
            seconds[number] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    below, found = {pid}, 0.0
    while below := {child for child, parent in parents.items() if parent in below}:
        found += sum(seconds[child] for child in below)
    return found


def resident(field):
    """VmRSS (now) or VmHWM (the highest since it was reset) of this process, in MB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field + ":"))


def peak_of(step):
    """The highest memory during a step, in MB, after what compiling left behind has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets VmHWM
    step()
    return resident("VmHWM")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
