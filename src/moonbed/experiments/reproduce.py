"""The published ablation: which experiments make up its rows, under a budget and over seeds."""

from __future__ import annotations

from collections.abc import Sequence

from moonbed.component import SpecError, nearest
from moonbed.experiments.presets import BUDGETS, ROWS, published
from moonbed.experiments.spec import Experiment

__all__ = ["plan"]


def plan(names: Sequence[str] | None, budget: str, seeds: int | None) -> dict[str, list[Experiment]]:
    """Row -> its experiments, one a seed. Raises `SpecError` for an unknown row or budget and for no seeds."""
    if budget not in BUDGETS:
        raise SpecError([("--budget", f"no budget is called {budget!r}; {nearest(budget, BUDGETS)}")])
    for name in names or ():
        if name not in ROWS:
            raise SpecError([("--rows", f"no published row is called {name!r}; {nearest(name, ROWS)}")])
    seeds = BUDGETS[budget].seeds if seeds is None else seeds
    if seeds < 1:
        raise SpecError([("--seeds", f"should be at least 1, given {seeds}")])
    return {
        name: [published(ROWS[name]).replace(**BUDGETS[budget].changes).shifted(seed) for seed in range(seeds)]
        for name in (names or ROWS)
    }
