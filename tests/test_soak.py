"""Small doses of `benchmarks/soak.py`: what is counted stays what it was, nothing is left, and growth would be seen."""

import functools
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import moonbed

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import soak

ENDLESS = {
    "moonbed.component._adapter": "a field of a class",
    "moonbed.component._hints": "a class",
    "moonbed.component._source_digest": "a class",
    "moonbed.experiments.differences._defaults": "a class",
    "moonbed.experiments.storage.formats._adapter": "a kind of file",
    "moonbed.experiments.optimizers.torch_options": "a class of torch",
    "moonbed.export.modules._is_ours": "a module",
    "moonbed.export.modules.module": "a module",
    "moonbed.serve.index._told": "a configuration that the store holds",
    "moonbed.serve.naming._defaults": "a class",
    "moonbed.serve.naming._nearest": "a configuration that the store holds",
    "moonbed.targets.curves._rule": "a number of nodes",
    "moonbed.targets.quadrature._hermite": "a number of dimensions",
}
"""Caches without an end that take arguments, and what there are only so many of."""


PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


def rows(**changing):
    flat = dict.fromkeys((*soak.COUNTS, *soak.SIZES), 5.0)
    return [{**flat, **{k: v(n) for k, v in changing.items()}, "done": 20 * n} for n in range(1, 21)]


@pytest.mark.parametrize("name", soak.COUNTS)
def test_one_more_is_seen(name):
    assert soak.verdict(rows(), 4.0) == []
    (said,) = soak.verdict(rows(**{name: lambda n: 5 + (n == 20)}), 4.0)
    assert said == f"{name}: 5 became 6"


def test_growth_is_seen_and_what_returns_is_none():
    assert soak.growth(rows(rss=lambda n: 100 * n), "rss") == pytest.approx((5.0, 0.0))
    (said,) = soak.verdict(rows(allocated=lambda n: 120 * n + n % 3), 4.0)
    assert said.startswith("allocated grows by 6.")
    assert soak.verdict(rows(allocated=lambda n: 500 * (n % 2)), 4.0) == []


def test_a_process_and_a_file_that_are_left_are_found(monkeypatch):
    run, kept = subprocess.run, []

    def untidy(words, env, **options):
        Path(env["TMPDIR"], "scrap").touch()
        kept.append(subprocess.Popen([sys.executable, "-c", "print(1, flush=True); input()"], env=env, **PIPES))
        kept[0].stdout.readline()
        return run([sys.executable, "-c", "print([])"], env=env, **options)

    monkeypatch.setattr(soak.subprocess, "run", untidy)
    try:
        found, left = soak.apart("single", [])
    finally:
        kept[0].communicate(b"\n")
    assert found == []
    assert [line.split(":")[0] for line in left] == ["left behind", "still alive"]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "count", "every"), [("single", 30, 10), ("jobs", 60, 20)])
def test_a_small_dose(part, count, every):
    """One diverges, and with two processes one raises."""
    found, left = soak.apart(part, ["--count", str(count), "--every", str(every)])
    assert [row["done"] for row in found] == list(range(every, count + 1, every))
    assert left == []
    for name in soak.COUNTS:
        assert {row[name] for row in found[1:]} == {found[1][name]}, name


def test_caches_have_an_end():
    endless = set()
    for info in pkgutil.walk_packages(moonbed.__path__, "moonbed."):
        if info.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(info.name)).items():
            cached = isinstance(value, functools._lru_cache_wrapper) and value.__module__ == info.name
            if cached and value.cache_parameters()["maxsize"] is None and inspect.signature(value).parameters:
                endless.add(f"{info.name}.{name}")
    assert endless == set(ENDLESS)
