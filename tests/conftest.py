"""What several files of tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from moonbed.cli import main

pytest_plugins = ["browser"]

# The same examples each time; `--hypothesis-profile=default` draws others.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")

# Tests run side by side: threads that wait for one another in every process would take the cores from all of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray gives its workers a niceness of 15, at which other tests leave them nothing.
os.environ.setdefault("RAY_worker_niceness", "0")


def command(capsys, pages: bool):
    """A function that calls the command in this process: (exit status, stdout, stderr).

    Without `pages` no page is written beside results, which takes a second or more, unless `--report` is given.
    """

    def call(*arguments) -> tuple[int, str, str]:
        words = [str(a) for a in arguments]
        if not pages and words[:1] in (["run"], ["reproduce"], ["compare"]) and not {"--report", "--help"} & set(words):
            words[1:1] = ["--report", "none"]
        with pytest.raises(SystemExit) as end:
            main(words)
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


@pytest.fixture
def moonbed(capsys, monkeypatch, tmp_path):
    """Call the command in this process, with `runs` in a folder of its own, without pages beside results."""
    monkeypatch.chdir(tmp_path)
    return command(capsys, pages=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first; side by side the slow ones, so that at the end no core waits for another's long test."""
    aside = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: (item.get_closest_marker("slow") is not None) != aside)
