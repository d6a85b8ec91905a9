"""Contests: turns, medians, ratios; the worker processes themselves in one small contest."""

import argparse
import json
import pathlib
import subprocess
import sys

import keras
import pytest

from benchmarks import allocator, contest, report, worker

TIMES = {"ours": [5.0, 1.0, 3.0], "quick": [2.0, 2.5, 1.5], "slow": [9.0, 9.0, 9.0]}


class Made:
    """A contestant whose times are made up."""

    turns = []

    def __init__(self, entry):
        self.name, self.ours, self.seconds, self.facts = entry.name, entry.ours, [], {"versions": {entry.name: "1"}}
        self.processor = []
        self.left = iter(TIMES.get(entry.name, ()))

    def answer(self):
        if self.name not in TIMES:
            self.facts["error"] = "not installed"
            return None
        return 10.0

    def step(self):
        self.turns.append(self.name)
        return next(self.left)

    def close(self):
        self.turns.append(f"{self.name} closed")


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(contest, "Contestant", Made)
    monkeypatch.setattr(Made, "turns", [])
    entry = {"library": "package", "task": {}}
    return [contest.Entry(name=name, ours=name == "ours", **entry) for name in ("ours", "absent", "quick", "slow")]


def silent(*_, **__):
    """In place of print."""


def test_contestants_take_turns_and_medians_make_ratios_of_the_best_other(made):
    results, absent = contest.compete(made, 3, log=silent)
    assert absent == {"absent": "not installed"}
    names = ["ours", "quick", "slow"]
    assert Made.turns == ["absent closed", *3 * names, *(f"{name} closed" for name in names)]
    rows = {row["name"]: row for row in contest.add_ratios(results)}
    assert [rows[name]["median"] for name in names] == [3.0, 2.0, 9.0]
    assert [rows[name]["ratio"] for name in names] == [1.5, 1.0, 4.5]
    assert rows["ours"]["first"] == 10.0 and contest.versions(results) == dict.fromkeys(names, "1")


def test_the_table_is_sorted_and_says_who_was_not_there(made):
    results, absent = contest.compete(made, 3, log=silent)
    text = contest.table("training", contest.add_ratios(results), absent)
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows[0] == "| quick | 2000 | 1.00 | 10.0 |" and rows[1] == "| **ours** | 3000 | 1.50 | 10.0 |"
    assert "Not here: absent (not installed)." in text


def test_without_others_there_is_no_ratio(made):
    results, _ = contest.compete(made[:1], 3, log=silent)
    assert contest.add_ratios(results)[0]["ratio"] is None


def test_of_pictures_the_table_has_speed_and_processor_time(made, monkeypatch):
    def answer(self):
        self.facts["images"] = 20
        self.processor = [0.3, 0.1, 0.25]
        return 10.0

    monkeypatch.setattr(Made, "answer", answer)
    results, _ = contest.compete([made[0], made[2]], 3, log=silent)
    rows = contest.table("pictures", contest.add_ratios(results), {}).splitlines()[2:]
    assert rows[0] == "| | images/s | time of the best other | processor, ms an image |"
    assert rows[2:] == ["| quick | 10 | 1.00 | 12.50 |", "| **ours** | 7 | 1.50 | 12.50 |"]


def test_a_worker_answers_each_line_and_says_why_it_cannot(monkeypatch):
    """The protocol alone, between a contestant and a worker that is a few lines."""
    program = "import json; print(json.dumps({'error': 'no such library'}))"
    started = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **kinds: started([command[0], "-c", program], **kinds))
    gone = contest.Contestant(contest.Entry(name="x", library="package", task={}))
    assert gone.answer() is None and gone.facts == {"error": "no such library"}
    gone.close()
    program = """
import json, sys
print(json.dumps({"seconds": 9.0, "images": 4, "versions": {"x": "1"}}), flush=True)
for line in sys.stdin:
    print(json.dumps({"seconds": 0.5, "processor_seconds": 0.7, "said": line.strip()}), flush=True)
"""
    there = contest.Contestant(contest.Entry(name="x", library="package", task={}))
    assert there.answer() == 9.0 and there.step() == 0.5
    assert there.facts == {"images": 4, "versions": {"x": "1"}, "said": "step"} and there.processor == [0.7]
    there.close()
    assert there.process.returncode == 0


def test_a_processor_is_kept_busy_by_children_too():
    """A child that has worked so long by its own clock, and still runs."""
    program = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True); sys.stdin.read()"
    before = worker.processor_seconds()
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "done\n"
        while_it_runs = worker.processor_seconds()
        child.stdin.close()
    assert worker.processor_seconds() - before > 0.25
    if pathlib.Path("/proc/self/stat").exists():
        assert while_it_runs - before > 0.25


def test_a_report_is_the_tables_of_its_files(tmp_path, capsys, made):
    results, absent = contest.compete(made, 3, log=silent)
    rows = {"results": contest.add_ratios(results), "absent": absent, "versions": {"numpy": "9"}}
    content = {"command": "benchmarks.x --rounds 3", "machine": "2 cores of Z", "contests": {"training": rows}}
    (tmp_path / "x.json").write_text(json.dumps(content))
    report.main([tmp_path / "x.json"])
    text = capsys.readouterr().out
    assert text.startswith("`python -m benchmarks.x --rounds 3`, 2 cores of Z\n\n**training**\n")
    assert contest.table("training", results, absent) in text and text.endswith("\nnumpy 9\n\n")


def options(tmp_path, **changes):
    chosen = {"sizes": ["atto"], "batch": [2], "side": 32, "dtype": "float32", "rounds": 2, "json": None, "only": None}
    return argparse.Namespace(**{**chosen, **changes})


def test_the_allocators_contest_pairs_each_backend_with_and_without_the_settings(tmp_path):
    ((title, entries),) = allocator.kept_and_returned(options(tmp_path)).items()
    assert "Atto, batch 2, 32 px" in title and len(entries) % 2 == 0
    for kept, returned in zip(entries[::2], entries[1::2], strict=True):
        assert kept.backend == returned.backend and kept.task == returned.task
        assert kept.environment == {} and returned.environment == dict.fromkeys(contest.ALLOCATOR)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="its workers choose their own backend: once is enough")
def test_a_contest_of_real_workers(tmp_path, capsys):
    chosen = options(tmp_path, json=tmp_path / "out" / "report.json")
    contests = allocator.kept_and_returned(chosen)
    of_torch = {title: [e for e in entries if e.backend == "torch"] for title, entries in contests.items()}
    contest.run("allocator", of_torch, chosen)
    (found,) = json.loads(chosen.json.read_text())["contests"].values()
    assert found["absent"] == {}
    for row in found["results"]:
        assert len(row["seconds"]) == 2 and row["median"] > 0 and row["versions"]["keras"] == keras.__version__
    assert "torch, kept" in capsys.readouterr().out
