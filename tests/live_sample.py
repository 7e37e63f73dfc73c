"""A small live document, made by hand: models that are laws, so that the panel's tests train nothing.

"blurred" samples a law that is a little wrong for the two moons, "steady" does so under guidance, "exploding" under
sigma up to 80, "recorded" has only points, and "deep" lives in three dimensions.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

STEPS = (1, 2, 4, 8, 16, 32)
HOSTILE = '<img src=x onerror="window.hacked=1"> & "recorded"'


class Blob:
    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def add(self, values: Any, dtype: str) -> dict[str, Any]:
        array = np.ascontiguousarray(
            values, dtype={"f8": "<f8", "f4": "<f4", "i4": "<i4", "u2": "<u2", "u1": "u1"}[dtype]
        )
        offset = sum(map(len, self.parts))
        self.parts.append(array.tobytes() + bytes(-array.nbytes % 8))
        return {"dtype": dtype, "shape": list(array.shape), "offset": offset}


def variance_preserving(s: float) -> tuple[float, float]:
    """alpha and sigma at a share s of the way from data to noise."""
    return math.cos(math.pi / 2 * s), math.sin(math.pi / 2 * s)


def variance_exploding(s: float) -> tuple[float, float]:
    return 1.0, 0.01 * 8000.0**s


def moons(dim: int = 2, blur: float = 0.0, shift: float = 0.0) -> dict[str, Any]:
    angle = np.linspace(0, np.pi, 40)
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
    points = np.concatenate([upper, lower])
    points = (points - points.mean(0)) / points.std(0) + shift
    points = np.concatenate([points, np.zeros((len(points), max(dim - 2, 0)))], 1)[:, :dim]
    return {"centres": points, "variances": np.full(1, 0.1**2 + blur**2)}


def ddim(blob: Blob, path: Any, steps: int, stochastic: bool = False, slope: bool = False) -> dict[str, Any]:
    """DDIM from s = .999 to .01; with noise, the ancestral step of eta = 1."""
    ends = np.linspace(0.999, 0.01, steps + 1)
    start = path(ends[0])
    code, numbers, slopes, states = [[0, 0, 0, 0]], [], [], []
    scale = math.hypot(*start) if start[0] != 1 else start[1]
    code.append([4, 0, 1, 0, 1])
    numbers.append(scale)
    slopes.append(0.0)
    states.append([ends[0], *start])
    for s, r in itertools.pairwise(ends):
        (a, sigma), (b, tau) = path(s), path(r)
        noise = math.sqrt(max(tau**2 - (tau**2 / sigma) ** 2 * (a / b) ** 2, 0)) if stochastic else 0.0
        kept = math.sqrt(max(tau**2 - noise**2, 0))
        code.append([3, 0, 1, 0, 1])
        numbers += [1.0, a, sigma]
        slopes += [0.0, 0.0, 0.0]
        if stochastic:
            code.append([1, 0, 0, 0])
        code.append([4, 0, 3, 0, 3, 2, 1] if stochastic else [4, 0, 2, 0, 2, 1])
        numbers += [kept / sigma, b - kept * a / sigma, *([noise] if stochastic else [])]
        slopes += [0.0, 0.02 if slope else 0.0, *([0.0] if stochastic else [])]
        states.append([r, b, tau])
    name = "ancestral" if stochastic else "DDIM"
    return {
        "sampler": name,
        "text": f"{name}, {steps} steps" if steps > 1 else f"{name}, 1 step",
        "steps": steps,
        "nfe": steps,
        "stochastic": stochastic,
        "code": blob.add(np.concatenate(code), "u1"),
        "numbers": blob.add(numbers, "f8"),
        "slope": blob.add(slopes, "f8") if slope else None,
        "states": blob.add(states, "f8"),
    }


def levels(blob: Blob, path: Any, count: int = 33) -> dict[str, Any]:
    lowest, highest = (math.log(path(s)[0] / path(s)[1]) for s in (0.999, 0.01))
    s = np.linspace(0.01, 0.999, 20001)
    ratio = np.array([math.log(path(v)[0] / path(v)[1]) for v in s])
    t = np.interp(np.linspace(lowest, highest, count), ratio[::-1], s[::-1])
    alpha, sigma = np.array([path(v) for v in t]).T
    step = 1e-5
    d_alpha, d_sigma = (np.array([path(v + step) for v in t]) - np.array([path(v - step) for v in t])).T / (2 * step)
    code = np.tile([0, 0, 0, 0, 3, 0, 1, 0, 1, 4, 0, 1, 0, 1], count)
    numbers = np.stack([np.ones(count), alpha, sigma, np.ones(count)], 1).ravel()
    made = {"t": t, "alpha": alpha, "sigma": sigma, "d_alpha": d_alpha, "d_sigma": d_sigma}
    return {
        **{name: blob.add(values, "f8") for name, values in made.items()},
        "code": blob.add(code, "u1"),
        "numbers": blob.add(numbers, "f8"),
        "slope": None,
        "code_at": blob.add(np.arange(count + 1) * 14, "i4"),
        "numbers_at": blob.add(np.arange(count + 1) * 4, "i4"),
    }


def document() -> tuple[dict[str, Any], bytes]:
    blob = Blob()

    def law(**keywords: Any) -> dict[str, Any]:
        made = moons(**keywords)
        count, dim = made["centres"].shape
        weights = np.full(count, -math.log(count))
        return {
            "kind": "mixture",
            "dim": dim,
            "centres": blob.add(made["centres"], "f8"),
            "log_weights": blob.add(weights, "f8"),
            "variances": blob.add(made["variances"], "f8"),
        }

    laws = {"moons": law(), "wrong": law(blur=0.12, shift=0.05), "deep": law(dim=3)}
    plans: dict[str, Any] = {}
    for name, path in (("vp", variance_preserving), ("ve", variance_exploding)):
        plans |= {f"{name} ddim {n}": ddim(blob, path, n) for n in STEPS}
        plans |= {f"{name} ancestral {n}": ddim(blob, path, n, stochastic=True) for n in STEPS[-2:]}
    plans |= {f"cfg {n}": ddim(blob, variance_preserving, n, slope=True) for n in STEPS}
    own = [key for key in plans if key.startswith("vp")]
    vp, ve = ["vp ddim 32", *(k for k in own if k != "vp ddim 32")], [k for k in plans if k.startswith("ve")][::-1]
    cfg = [k for k in plans if k.startswith("cfg")][::-1]
    points = np.random.default_rng(0).integers(15000, 50000, (300, 2))
    shared = {
        "reason": "",
        "row": 0,
        "seed": 0,
        "dim": 2,
        "law": "moons",
        "prior": None,
        "guidance": None,
        "samples": None,
    }
    shared |= {"levels": "vp", "plans": vp, "parameters": 5000, "training_steps": 100, "kind": "learned", "exact": 1}
    models = [
        {**shared, "name": "blurred", "functions": ["wrong"]},
        {**shared, "name": "exact", "kind": "exact", "functions": ["moons"], "exact": None, "parameters": 0},
        {**shared, "name": "steady", "functions": ["wrong"], "plans": cfg, "guidance": {"type": "CFG", "scale": 2.0}},
        {**shared, "name": "exploding", "functions": ["wrong"], "plans": ve, "levels": "ve"},
        {**shared, "name": "deep", "functions": ["deep"], "law": "deep", "dim": 3, "levels": None, "exact": None},
        {
            **shared,
            "name": HOSTILE,
            "kind": "recorded",
            "reason": "the operation <b>sort</b> has no counterpart in the page",
            "functions": [],
            "plans": [],
            "levels": None,
            "samples": {"points": blob.add(points, "u2"), "low": [-3.0, -3.0], "high": [3.0, 3.0], "outside": 0},
        },
    ]
    made = {"vp": levels(blob, variance_preserving), "ve": levels(blob, variance_exploding)}
    live = {"version": 1, "networks": {}, "laws": laws, "levels": made, "plans": plans, "models": models}
    return live, b"".join(blob.parts)
