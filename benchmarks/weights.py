"""Loading a safetensors file into a built model against reading it alone: `python -m benchmarks.weights`.

The measure is what nobody can do without: `safetensors.numpy.load_file`, and one transposed copy of each array, since
the file's axes are in PyTorch's order. Both take turns in one process. Memory is the peak above the level before the
call, in a fresh process and as a share of the file; the pages of the file that are mapped count. Goals: twice the
time, 1.2 times the file.
"""

import argparse
import gc
import importlib.util
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.contest import ROOT, machine
from benchmarks.contestants import keras_versions
from benchmarks.peers import BACKENDS

STATUS, PEAK = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
TIME_GOAL, MEMORY_GOAL = 2.0, 1.2


def built(size):
    import keras_convnextv2 as kc

    return getattr(kc, f"ConvNeXtV2{size.capitalize()}")()


def write_file(path, size):
    import keras_convnextv2 as kc

    kc.save_weights_as(built(size), path, "timm")


def reading(path):
    """load_file and the transposed copies, as a function."""
    from safetensors.numpy import load_file

    from keras_convnextv2.weights.matching import expand, measure, recognise
    from keras_convnextv2.weights.rows import CONVERSIONS

    shapes = {name: array.shape for name, array in load_file(path).items()}
    table = recognise(shapes, path)
    forward = {p.theirs: CONVERSIONS[p.conversion].forward for p in expand(table, measure(table, shapes))}
    return lambda: {name: forward[name](array).copy(order="C") for name, array in load_file(path).items()}


def measure_time(path, size, rounds):
    """Both in turns: medians, and the median of the rounds' ratios."""
    import keras_convnextv2 as kc

    model, read = built(size), reading(path)

    def load():
        kc.load_weights(model, path)
        for variable in model.weights:
            getattr(variable.value, "block_until_ready", int)()  # JAX returns before it has copied

    entrants = {"reading": read, "load_weights": load}
    seconds = {name: [] for name in entrants}
    for turn in range(1 + rounds):  # the first fills the page cache and the allocator
        for name, entrant in entrants.items():
            start = time.perf_counter()
            entrant()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    ratio = statistics.median(ours / other for other, ours in zip(*seconds.values(), strict=True))
    return {"ratio": ratio, **{name: statistics.median(values) for name, values in seconds.items()}}


def measure_memory(path, size):
    """The peak above the level before the call, over the size of the file."""
    import keras_convnextv2 as kc

    model = built(size)
    gc.collect()
    PEAK.write_text("5")  # the kernel's highest level starts again from here (proc(5))
    before = kilobytes("VmRSS")
    kc.load_weights(model, path)
    return {"memory": 1024 * (kilobytes("VmHWM") - before) / os.path.getsize(path)}


def kilobytes(field):
    return int(re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())[1])


def facts():
    import numpy
    import safetensors

    return keras_versions()["versions"] | {"numpy": numpy.__version__, "safetensors": safetensors.__version__}


def in_a_process(backend, **task):
    """What `answer` says for a task, in a fresh process on that backend."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "benchmarks.weights", "--task", json.dumps(task)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def answer(what, **task):
    tasks = {"file": write_file, "time": measure_time, "memory": measure_memory}
    return {**(tasks[what](**task) or {}), "versions": facts()}


def table(title, results):
    lines = [f"**{title}**", "", "| | time, of reading alone | peak memory, of the file |", "|---|---:|---:|"]
    lines += [f"| {backend} | {row['ratio']:.2f} | {row['memory']:.2f} |" for backend, row in results.items()]
    return "\n".join([*lines, f"| goal, at most | {TIME_GOAL} | {MEMORY_GOAL} |"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base", help="atto ... huge")
    parser.add_argument("--rounds", type=int, default=9, help="measured turns")
    parser.add_argument("--backends", nargs="+", default=[b for b in BACKENDS if importlib.util.find_spec(b)])
    parser.add_argument("--json", type=pathlib.Path, help="write everything measured there")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(answer(**options.task)))
        return
    results, title = {}, f"ConvNeXt V2 {options.size.capitalize()} from safetensors"
    with tempfile.TemporaryDirectory() as folder:
        file = {"path": f"{folder}/model.safetensors", "size": options.size}
        in_a_process(options.backends[0], what="file", **file)
        for backend in options.backends:
            row = in_a_process(backend, what="time", rounds=options.rounds, **file)
            # without /proc there is no peak to be had
            memory = in_a_process(backend, what="memory", **file) if PEAK.exists() else {"memory": float("nan")}
            results[backend] = memory | row
            print(f"{backend}: {results[backend]}", flush=True)
    print("\n" + table(title, results) + f"\n\n{machine()}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"title": title, "machine": machine(), "results": results}, indent=1))


if __name__ == "__main__":
    main()
