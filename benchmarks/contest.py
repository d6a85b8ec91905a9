"""Contestants take turns, one step each, in processes of their own; medians and ratios come out.

A shared machine changes its speed by the minute: only what ran in turns can be compared.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# Memory stays mapped between steps (glibc).
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
# The same for everybody; waiting threads give their core away.
ENVIRONMENT = {
    **ALLOCATOR,
    "OMP_WAIT_POLICY": "PASSIVE",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """Who takes part in a contest.

    Args:
        name: of the row in the table.
        library: a key of `benchmarks.worker.LIBRARIES`, such as "package" or "transformers".
        task: what to run and with which sizes, for that library's function.
        ours: this package, as against what a user would pick instead.
        backend: of Keras, for libraries that use it.
        environment: further variables; None removes one.
        pause: stop the worker and its own workers while others run, who would read ahead meanwhile.
    """

    name: str
    library: str
    task: dict
    ours: bool = False
    backend: str | None = None
    environment: dict = dataclasses.field(default_factory=dict)
    pause: bool = False


class Contestant:
    """The worker process of an Entry, which runs one step of its task whenever it is told to."""

    def __init__(self, entry):
        self.name, self.seconds, self.facts, self.pause, self.ours = entry.name, [], {}, entry.pause, entry.ours
        self.processor = []  # seconds of it, of the worker and its own workers, where a step is of pictures
        backend = {"KERAS_BACKEND": entry.backend} if entry.backend else {}
        chosen = {**os.environ, **ENVIRONMENT, **backend, **entry.environment}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        order = json.dumps({"library": entry.library, "task": entry.task})
        command = [sys.executable, "-m", "benchmarks.worker", order]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # a group of its own can be stopped as a whole; the system wakes and ends a stopped one whose parent is gone
        group = {"process_group": 0} if entry.pause else {}
        self.process = subprocess.Popen(command, env=chosen, cwd=ROOT, text=True, **pipes, **group)

    def answer(self):
        """The worker's next line, as data; None when it gave up, which it explains in `facts["error"]`."""
        line = self.process.stdout.readline()
        reply = json.loads(line) if line else {"error": f"ended with {self.process.wait()}"}
        self.processor += [reply.pop("processor_seconds")] if "processor_seconds" in reply else []
        self.facts |= {key: value for key, value in reply.items() if key != "seconds"}
        if "seconds" in reply:
            self.signal("SIGSTOP")
        return reply.get("seconds")

    def step(self):
        self.signal("SIGCONT")
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.answer()

    def signal(self, name):
        if self.pause:
            os.killpg(self.process.pid, getattr(signal, name))

    def close(self):
        if self.process.poll() is None:
            self.signal("SIGCONT")
        with self.process:  # closes its pipes and waits for it
            pass


def compete(entries, rounds, log=print):
    """Warm up one after the other, then take turns.

    Returns:
        [{"name", "ours", "seconds": [...], "median", "first", ...}], without those that could not take part, and
        {name: reason} of those. Where a step is of pictures, also "images" and "processor", its median seconds.
    """
    running, absent = [], {}
    for entry in entries:
        contestant = Contestant(entry)
        first = contestant.answer()
        if first is None:
            absent[contestant.name] = contestant.facts.get("error", "ended")
            contestant.close()
            log(f"  {contestant.name}: not here ({absent[contestant.name]})", flush=True)
        else:
            contestant.facts["first"] = first
            running.append(contestant)
            log(f"  {contestant.name}: first step after {first:.1f} s", flush=True)
    for turn in range(rounds):
        for contestant in running:
            contestant.seconds.append(contestant.step())
        if (turn + 1) % 5 == 0 or turn + 1 == rounds:
            log(f"  round {turn + 1} of {rounds}", flush=True)
    for contestant in running:
        contestant.close()
    results = []
    for c in running:
        row = {"name": c.name, "ours": c.ours, "seconds": c.seconds, "median": statistics.median(c.seconds), **c.facts}
        results.append(row | ({"processor": statistics.median(c.processor)} if c.processor else {}))
    return results, absent


def add_ratios(results):
    """Each row's time over the best of the others', from the same run: row["ratio"], or None without others."""
    others = [row["median"] for row in results if not row["ours"]]
    for row in results:
        row["ratio"] = row["median"] / min(others) if others else None
    return results


def table(title, results, absent):
    """Markdown."""
    memory = any("activations_mb" in row for row in results)
    lines = [f"**{title}**", "", "| | ms a step | of the best other | first step, s |", "|---|---:|---:|---:|"]
    if memory:
        lines[2:] = ["| | activations, MB |", "|---|---:|"]
    pictures = any("processor" in row for row in results)
    if pictures:
        lines[2:] = ["| | images/s | time of the best other | processor, ms an image |", "|---|---:|---:|---:|"]
    for row in sorted(results, key=lambda row: row["median"]):
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        name = f"**{row['name']}**" if row["ours"] else row["name"]
        if memory:
            lines.append(f"| {name} | {row['activations_mb']:.0f} |")
            continue
        if pictures:
            processor = 1e3 * row["processor"] / row["images"]
            lines.append(f"| {name} | {row['images'] / row['median']:.0f} | {ratio} | {processor:.2f} |")
            continue
        lines.append(f"| {name} | {1e3 * row['median']:.0f} | {ratio} | {row['first']:.1f} |")
    lines += [f"\nNot here: {name} ({reason})." for name, reason in absent.items()]
    return "\n".join(lines)


def machine():
    """One line: processor, cores, memory, date, and the versions of what took part."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text() if platform.system() == "Linux" else ""
    model = next(
        (line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores of {model or platform.machine()}, {datetime.date.today()}"


def command_line():
    """What was typed, without paths."""
    own = list(sys.argv[1:])
    if "--json" in own:
        del own[own.index("--json") : own.index("--json") + 2]
    return " ".join([f"benchmarks.{pathlib.Path(sys.argv[0]).stem}", *own])


def versions(results):
    """{library: version} over all rows."""
    found = {}
    for row in results:
        found |= row.get("versions", {})
    return dict(sorted(found.items()))


def parse_with_memory(options):
    """Adds `--memory` to a parser. Returns what was chosen, and the environment that makes workers measure memory."""
    options.add_argument("--memory", action="store_true", help="peak memory of a step instead of its time")
    chosen = options.parse_args()
    return chosen, {"BENCHMARK_MEMORY": "1"} if chosen.memory else {}


def parser(description, **defaults):
    """What every contest takes."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--sizes", nargs="+", default=defaults.get("sizes", ["atto"]), help="atto ... huge")
    options.add_argument("--batch", nargs="+", type=int, default=defaults.get("batch", [16]), help="batch sizes")
    options.add_argument("--side", type=int, default=224, help="pixels of the square images")
    options.add_argument("--dtype", default="float32", help="float32, or bfloat16 (mixed precision)")
    options.add_argument(
        "--rounds", type=int, default=defaults.get("rounds", 15), help="measured steps of each contestant"
    )
    options.add_argument("--only", nargs="*", help="take only contestants whose name contains one of these")
    options.add_argument("--json", type=pathlib.Path, help="write everything measured there")
    return options


def run(title, contests, options):
    """`contests`: {title: [Entry]}. Prints a table each, and writes --json."""
    report = {"title": title, "command": command_line(), "machine": machine(), "contests": {}}
    for name, entries in contests.items():
        print(f"== {name}", flush=True)
        chosen = [e for e in entries if not options.only or any(part in e.name for part in options.only)]
        results, absent = compete(chosen, options.rounds)
        add_ratios(results)
        report["contests"][name] = {"results": results, "absent": absent, "versions": versions(results)}
        print("\n" + table(name, results, absent) + "\n", flush=True)
        print(machine() + "; " + ", ".join(f"{k} {v}" for k, v in versions(results).items()) + "\n", flush=True)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(report, indent=1))
    return report
