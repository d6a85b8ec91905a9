"""Contests: turns, medians, ratios; the worker processes themselves in one small contest."""

import argparse
import json

import keras
import pytest

from benchmarks import allocator, contest

TIMES = {"ours": [5.0, 1.0, 3.0], "quick": [2.0, 2.5, 1.5], "slow": [9.0, 9.0, 9.0]}


class Made:
    """A contestant whose times are made up."""

    turns = []

    def __init__(self, entry):
        self.name, self.ours, self.seconds, self.facts = entry.name, entry.ours, [], {"versions": {entry.name: "1"}}
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
    (report,) = json.loads(chosen.json.read_text())["contests"].values()
    assert report["absent"] == {}
    for row in report["results"]:
        assert len(row["seconds"]) == 2 and row["median"] > 0 and row["versions"]["keras"] == keras.__version__
    assert "torch, kept" in capsys.readouterr().out
