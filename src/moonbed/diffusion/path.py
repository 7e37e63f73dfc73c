"""What a path costs: the kinetic energy of the probability flow.

Points that move with the velocity v from t = 1 to t = 0 spend the energy

    E = mean over points of the integral over t of |v(x_t, t)|² dt

and no flow between the same two laws spends less than the square of their Wasserstein-2 distance: with equality, all
points go straight along the optimal transport at constant speed (Benamou and Brenier, A Computational Fluid Mechanics
Solution to the Monge-Kantorovich Mass Transfer Problem, 2000). The normalised path energy |E - W2²|/W2² (Tong et al.,
Simulation-Free Schrödinger Bridges via Score and Flow Matching, 2024) says how far from that a model is, if W2 is taken
between the laws at both ends; a sample of each gives more than that. Only a small W2 makes it sensitive: coordinates
matter, and published values are those of data that were not standardised.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.diffusion.denoisers import Denoiser

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["normalised_path_energy", "path_energy"]


def path_energy(denoiser: Denoiser, x1: Tensor, steps: int = 100) -> tuple[float, Tensor]:
    """The mean energy of the paths from x1 (n, dim), states at t = 1, in squared units of x, and their ends at t = 0.

    States at t = 1 are sigma(1) times normal noise, or the points of another source that the denoiser was trained with.
    Euler's method in `steps` even steps of t, the velocity constant over each: the energy is that of the broken lines
    that Euler's method really goes along, with an error of O(1/steps) from that of the exact flow. `steps` evaluations
    of the denoiser, in the type of x1, without gradients. Raises ValueError for no steps.
    """
    if steps < 1:
        raise ValueError(f"a path takes at least 1 step, given {steps}")
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    x, energy = x1, torch.zeros(len(x1), dtype=torch.float64)
    with torch.no_grad():
        for t, u in pairwise(times):
            velocity = denoiser.velocity(x, t)
            energy += float(t - u) * velocity.double().square().sum(1).cpu()
            x = x + float(u - t) * velocity
    return float(energy.mean()), x


def normalised_path_energy(energy: float, w2: float) -> float:
    """|energy - w2²|/w2², from an energy and a Wasserstein-2 distance (the root, not its square). 0 at best.

    Raises ValueError for a distance that is not positive.
    """
    if not w2 > 0:
        raise ValueError(f"the path energy is normalised by a distance above 0, given {w2}")
    return abs(energy - w2**2) / w2**2
