"""A plan beside its sampler: both are run on a few points, with the same noise, and must come to the same states.

In the place of networks and laws stands a smooth nonlinear function, so a sampler that does anything but form linear
combinations (that takes a norm of the state, or compares) is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.diffusion import Sampler
from moonbed.live.fakes import Functions, Make, states
from moonbed.live.plan import LAW, NETWORK, Plan
from moonbed.live.replay import run_plan
from moonbed.live.tape import Untraceable
from moonbed.rng import Rng

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["hold_beside"]

POINTS = 7
_CLOSE = 1e-5


def _stand_in(kind: int, f: int, x: Any, rest: Sequence[float]) -> Any:
    """A smooth nonlinear function of the rows in the place of a network or of a law, between -2 and 2."""
    turned = x[:, ::-1]
    if kind == LAW:
        a, s = rest
        x, turned, shift = x / (a + s), turned / (a + s), s / (a + s)
    else:
        shift = sum(np.sin(3 * c + k) for k, c in enumerate(rest))
    return 1.5 * np.tanh(0.7 * x + 0.4 * turned + 0.3 * shift + f) + 0.5 * np.sin(turned - shift)


def hold_beside(plan: Plan, sampler: Sampler, make: Make, numbers: Any) -> None:
    """Raises `Untraceable` where the plan and the sampler part."""
    rng = Rng(0).child("plan", "check")
    start = rng.stream("start").normal((POINTS, 2), torch.float64)

    def noise(k: int) -> Tensor:
        return rng.stream("noise", k).normal((POINTS, 2), torch.float64)

    drawn = iter(range(1 << 30))
    functions = Functions(lambda kind, f, x, rest: torch.from_numpy(_stand_in(kind, f, x.double().numpy(), rest)), 2)
    wanted = [
        x.clone().double().numpy()
        for x in states(sampler, make(functions), start.clone(), lambda _: noise(next(drawn)))
    ]

    class Asked:
        def __getitem__(self, f: int) -> Callable[..., Any]:
            return lambda x, *rest: _stand_in(
                *((NETWORK, f, x, (*rest[0], rest[1])) if np.ndim(rest[0]) else (LAW, f, x, rest))
            )

    got = list(run_plan(plan, start.numpy(), Asked(), lambda k: noise(k).numpy(), numbers))[1:]  # type: ignore[arg-type]
    if len(got) != len(wanted):
        raise Untraceable(f"{type(sampler).__name__} took {len(wanted)} steps, and {len(got)} when it was written down")
    for a, b in zip(got, wanted, strict=True):
        if not np.abs(a - b).max() <= _CLOSE * (1 + np.abs(b).max()):
            raise Untraceable(
                f"{type(sampler).__name__} does more than form linear combinations: what it does depends on the state"
            )
