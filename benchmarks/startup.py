"""What a user waits for before the first step: the import, building Huge. `python -m benchmarks.startup`"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from benchmarks.contest import ENVIRONMENT, ROOT, machine
from benchmarks.peers import BACKENDS

TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
IMPORTS = {"import keras": TIMED.format("import keras"), "this package": TIMED.format("import keras_convnextv2")}
HUGE = (
    "import time, keras_convnextv2 as kc; from keras_convnextv2 import backbone; "
    "from keras_convnextv2.layers import initial; "
    "{before}start = time.perf_counter(); {context}; print(time.perf_counter() - start)"
)
BUILDS = {
    "Huge, weights drawn": HUGE.format(before="", context="kc.ConvNeXtV2Huge()"),
    "Huge, not drawn": HUGE.format(
        before="backbone.drawing = lambda needed: initial.drawing(False); ", context="kc.ConvNeXtV2Huge()"
    ),
}


def seconds(program, backend):
    environment = {**os.environ, **ENVIRONMENT, "KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout.split()[-1])


def in_turns(programs, backend, rounds):
    taken = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            taken[name].append(seconds(program, backend))
    return {name: statistics.median(values) for name, values in taken.items()}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=pathlib.Path)
    options = options.parse_args()
    report = {"machine": machine(), "imports": {}, "builds": {}}
    print("| | import keras, s | with this package | ratio | Huge drawn, s | Huge not drawn, s |")
    print("|---|---:|---:|---:|---:|---:|")
    for backend in BACKENDS:
        imports = report["imports"][backend] = in_turns(IMPORTS, backend, options.rounds)
        builds = report["builds"][backend] = in_turns(BUILDS, backend, 1)
        alone, ours = imports.values()
        drawn, bare = builds.values()
        print(f"| {backend} | {alone:.1f} | {ours:.1f} | {ours / alone:.2f} | {drawn:.1f} | {bare:.1f} |", flush=True)
    print("\n" + machine())
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
