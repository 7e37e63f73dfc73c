"""What a model has learned, as fields on a grid beside the exact ones: flow and density at a few noise levels.

In the coordinates y = x_t/alpha with the noise ratio s = sigma/alpha, the probability flow is dy/dlog s = y - D(y, s),
whatever the schedule. Its density at s is followed to the noise (see `moonbed.diffusion.likelihood`); the exact one is
the target's, with that much noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import SpecError
from moonbed.diffusion.likelihood import Flow
from moonbed.experiments.evaluate import exact_of
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.store import Store
from moonbed.experiments.weights import denoiser_in

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["LEVELS", "Field", "fields"]

LEVELS = (1.0, 0.3, 0.1)
STEPS = 96
"""Steps of a density here: on a picture nobody sees more of them."""


@dataclass(frozen=True)
class Field:
    """Learned and exact at one noise ratio `sigma`, on the grid `x` (k,) times `y` (k,).

    `flow` (k, k, 2) and `log_density` (k, k), their first axis y, are (learned, exact); a learned density may be None.
    """

    sigma: float
    x: np.ndarray
    y: np.ndarray
    flow: tuple[np.ndarray, np.ndarray]
    log_density: tuple[np.ndarray | None, np.ndarray]

    @property
    def error(self) -> float:
        """Root mean square of |D - D*|/sigma under the exact density."""
        p = np.exp(self.log_density[1] - self.log_density[1].max())
        square = ((self.flow[0] - self.flow[1]) ** 2).sum(-1)
        return float(np.sqrt((p * square).sum() / p.sum())) / self.sigma


def fields(
    experiment: Experiment, store: Store, levels: Sequence[float] = LEVELS, side: int = 48, density: bool = True
) -> Iterator[Field]:
    """Yield the fields of a stored run, a noise level at a time.

    Raises `SpecError` where there is no exact denoiser or the plane is not its home, `StoreError` without weights.
    """
    if experiment.training.target.dim != 2:
        raise SpecError([("field", f"is drawn in the plane, given {experiment.training.target.dim} dimensions")])
    exact = Flow(exact_of(experiment))
    denoiser = denoiser_in(store, experiment, "cpu")
    if denoiser is None:
        raise StoreError(f"{experiment.training.id}: no trained weights")
    learned, law = Flow(denoiser), experiment.law
    low, high = max(learned.sigma_min, exact.sigma_min), min(learned.sigma_max, exact.sigma_max)
    for sigma in (min(max(level, low), high) for level in levels):
        points = law.sample(2_000, experiment.rng.stream("field"))
        edge = (points.abs().amax(0) + 2.0 * sigma).tolist()
        x, y = (torch.linspace(-end, end, side, dtype=torch.float64) for end in edge)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
        flow = tuple((grid - f.denoise(grid, sigma)).reshape(side, side, 2).numpy() for f in (learned, exact))
        mine = (
            learned.log_prob(grid, STEPS, sigma).reshape(side, side).numpy()
            if density and experiment.has_density
            else None
        )
        truth = law.log_prob(grid, 1.0, sigma).reshape(side, side).numpy()
        yield Field(sigma, x.numpy(), y.numpy(), (flow[0], flow[1]), (mine, truth))
