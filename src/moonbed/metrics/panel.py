"""Diagnosis: what exactly is wrong with samples of a known law, in physical units and in words.

Let p_theta be a family of laws through the exact one, p_0 = p. Rao's test of theta = 0 takes the mean over samples of
the score s(x) = d/dtheta log p_theta(x) at 0, whose expectation under p is 0 and whose variance is the Fisher
information I:

    z = sqrt(n) mean(s)/sqrt(I) ~ N(0, 1)        estimate of theta = mean(s)/I, standard error 1/sqrt(n I)

No test is more powerful against a small theta (Rao, Large sample tests of statistical hypotheses concerning several
parameters, 1948). For a mixture of Gaussians (weights w_k, centres c_k, variances v_k) with the responsibilities
r_k(x), by Fisher's identity the score is the posterior mean of the score of the complete data:

    shift along a coordinate          sum_k r_k (x - c_k)/v_k
    log of the noise's width          sum_k r_k |x - c_k|²/v_k - dim
    offset across arc m, normal n_k   sum_{k in m} r_k <x - c_k, n_k>/v_k          outwards is away from the arc's mean
    weight w of mode m                (sum_{k in m} r_k - w)/(w (1 - w))
    density 1 + theta P_j along arc m sum_{k in m} r_k P_j(u_k), orthonormal Legendre polynomials j = 1..4 in u

Each sees its own defect and hardly another's: shift, width and offset compare points with the nearest piece of curve,
weight and density compare pieces of curve with each other. A law that is no mixture has its score, the labels, and the
first order effect of a blur, (p_blurred/p - 1)/blur².

*Robustness.* Far points would move all these means at once. So points below the density level that the law exceeds but
for 0.05 % of its mass are taken out and counted (the *tail*: a binomial test, one-sided). The means run over the
others, against null means and informations of the law cut at the same level. One exploded point then is one point off
the support, and no shift. A few percent of the information on the width goes with it.

p-values are adjusted by Holm over all questions. Estimates are first order: exact for small defects, of the right sign
and size for large ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from moonbed._lazy import lazy_import
from moonbed.metrics.base import Evaluation, Metric, Need
from moonbed.metrics.law import KnownLaw
from moonbed.metrics.significance import holm

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Diagnosis", "Estimate", "Evidence", "Panel", "diagnose", "evidence"]

_TAIL = 5e-4
_ORDERS = 4
_MOST_ARCS = 16  # more arcs than that have their weights tested, but not each its offset and density
_LEAST_INFORMATION = 1e-9
_DRAWS = 1 << 14  # of the law, for variances to half a percent


@dataclass(frozen=True)
class Estimate:
    """One question put to the samples: how large is a defect, in `unit`, and can it be told from none?

    `p` is for this question alone, `p_holm` adjusted over all of the panel. `kind` is shift, width, offset, weight,
    density or tail, `where` a coordinate or a mode.
    """

    kind: str
    where: str
    value: float
    se: float
    z: float
    p: float
    unit: str
    p_holm: float = 1.0

    @property
    def name(self) -> str:
        """Short name, unique in a panel."""
        return f"{self.kind} {self.where}".strip()


@dataclass(frozen=True)
class Diagnosis:
    """All estimates of a panel, on n samples."""

    estimates: tuple[Estimate, ...]
    n: int
    noun: str = "modes"

    def __getitem__(self, name: str) -> Estimate:
        for estimate in self.estimates:
            if estimate.name == name:
                return estimate
        raise KeyError(f"{name!r}; known: {', '.join(e.name for e in self.estimates)}")

    def significant(self, level: float = 0.05) -> list[Estimate]:
        """What can be told from none at that family-wise level, the clearest first."""
        return sorted((e for e in self.estimates if e.p_holm < level), key=lambda e: -abs(e.z))

    def sentence(self, level: float = 0.05, most: int = 5) -> str:
        """What is wrong in words, with standard errors: the clearest of what is significant, and how many more."""
        found = self.significant(level)
        if not found:
            return f"cannot be told from the exact law at n = {self.n:,}"
        parts, along = [], set()
        for e in found:
            if e.kind != "density":
                parts.append(_phrase(e, self.noun))
            elif e.where.rpartition(" order ")[0] not in along:
                arc = e.where.rpartition(" order ")[0]
                along.add(arc)
                parts.append(_along(arc, [o for o in self.estimates if o.name.startswith(f"density {arc} order ")]))
        more = [f"and {len(parts) - most} more"] if len(parts) > most else []
        return ", ".join(parts[:most] + more)


class Panel(Metric):
    """The largest |z| of the score tests of the exact law: how clearly the clearest defect stands out.

    Estimator: see the module; `diagnose` gives all estimates, and their sentence. Unit: standard errors; about 2.1 for
    15 tests of perfect samples, and grows as sqrt(n) with a fixed defect: compare at equal n. 0.02 s at n = 5,000 with
    320 Gaussians, O(n K); 1 s once for a law. Blind to what none of its families bends towards: correlations between
    modes, wiggles finer than the fourth polynomial along an arc, copies of training points.
    Finite whatever the samples; NaN and infinite ones are off the support. Source: Rao 1948; Fisher's identity.
    """

    unit = "standard errors"
    needs: ClassVar[tuple[Need, ...]] = ("law",)
    growth = 0.5
    least = 0.0

    @property
    def label(self) -> str:
        return "panel |z|"

    def __call__(self, evaluation: Evaluation) -> float:
        self.need(evaluation)
        return max(abs(e.z) for e in diagnose(evaluation).estimates)

    def details(self, evaluation: Evaluation) -> dict[str, Any]:
        found = diagnose(evaluation)
        return {"sentence": found.sentence(), "estimates": [asdict(e) for e in found.estimates]}


def diagnose(evaluation: Evaluation) -> Diagnosis:
    """Every estimate of the panel on the samples of an evaluation. Raises `MissingError` where it has no law."""
    law = Panel().need(evaluation)
    return evaluation.once("panel", lambda: _diagnose(law, evaluation))


def _diagnose(law: KnownLaw, evaluation: Evaluation) -> Diagnosis:
    null = _null(law)
    core, scores = evaluation.log_density() >= null.level, _on_support(law, evaluation)
    n, inside = len(core), int(core.sum())
    mean = scores.sum(0) / inside if inside else np.full(len(null.questions), np.nan)
    out = []
    for question, value, expected, information in zip(null.questions, mean, null.mean, null.core, strict=True):
        if not information > _LEAST_INFORMATION:
            continue
        value -= expected
        z = float(value * math.sqrt(inside / information)) if inside else 0.0
        estimate, se = question.factor * value / information, question.factor / math.sqrt(max(inside, 1) * information)
        p = math.erfc(abs(z) / math.sqrt(2))
        out.append(Estimate(question.kind, question.where, float(estimate), float(se), z, p, question.unit))
    out.append(_tail(n - inside, n, null.mass))
    adjusted = [replace(e, p_holm=p) for e, p in zip(out, holm([e.p for e in out]), strict=True)]
    return Diagnosis(tuple(adjusted), n, "arcs" if law.arcs else "modes")


class Evidence(NamedTuple):
    """What each sample says: standardised scores (n, questions), zero off the support, and who is on it (n,).

    For any subset of the samples, z of a question is the sum of its column over the root of the number on the support.
    `mass` is the law's own share off the support.
    """

    scores: np.ndarray
    inside: np.ndarray
    mass: float

    def joined(self, other: Evidence) -> Evidence:
        """Both together."""
        scores, inside = np.vstack([self.scores, other.scores]), np.concatenate([self.inside, other.inside])
        return Evidence(scores, inside, self.mass)


def evidence(law: KnownLaw, x: np.ndarray) -> Evidence:
    """The panel's scores of samples (n, dim), before they are summed."""
    log_density = law.log_density(x)
    return _standardised(law, log_density, _scores_inside(law, x, log_density))


def observed(evaluation: Evaluation) -> Evidence:
    """The same of the samples of an evaluation, from what the panel has computed."""
    law = Panel().need(evaluation)
    return _standardised(law, evaluation.log_density(), _on_support(law, evaluation))


def _standardised(law: KnownLaw, log_density: np.ndarray, scores: np.ndarray) -> Evidence:
    null = _null(law)
    inside = log_density >= null.level
    asked = null.core > _LEAST_INFORMATION
    scores = (scores - null.mean)[:, asked] / np.sqrt(null.core[asked])
    return Evidence(np.where(inside[:, None], scores, 0.0), inside, null.mass)


def _on_support(law: KnownLaw, evaluation: Evaluation) -> np.ndarray:
    """(n, questions) scores of the samples, zero off the support."""
    return evaluation.each("panel", lambda x: _scores_inside(law, x, evaluation.whole.log_density()))


def _scores_inside(law: KnownLaw, x: np.ndarray, log_density: np.ndarray) -> np.ndarray:
    null = _null(law)
    inside, out = log_density >= null.level, np.zeros((len(x), len(null.questions)))
    if inside.any():
        out[inside] = _scores(law, x[inside])
    return out


def _tail(count: int, n: int, mass: float) -> Estimate:
    """Excess of points off the support. p is exact, P(count or more)."""
    from scipy.stats import binom

    p, share = float(binom.sf(count - 1, n, mass)), count / n
    spread = math.sqrt(max(share * (1 - share), mass * (1 - mass)) / n)
    return Estimate("tail", "", 100 * (share - mass), 100 * spread, tail_z(count, n, mass), p, "% of points")


def tail_z(count: int, n: int, mass: float) -> float:
    """Normal score of the mid-p value of a count off the support; far out, the signed root of the deviance."""
    from scipy.stats import binom

    middle = float(binom.sf(count, n, mass)) + 0.5 * float(binom.pmf(count, n, mass))
    if mass == 0 or middle < 1e-14:
        share, q = count / n, max(mass, 1e-12)
        terms = [a * math.log(a / b) for a, b in ((share, q), (1 - share, 1 - q)) if a > 0]
        return math.copysign(math.sqrt(2 * n * max(0.0, math.fsum(terms))), share - mass)
    return float(-torch.special.ndtri(torch.tensor(middle, dtype=torch.float64)))


# The families


class Question(NamedTuple):
    """A column of scores: what it asks, and what a unit of its theta is called."""

    kind: str
    where: str
    unit: str
    factor: float


class Null(NamedTuple):
    """Level and mass of the tail; per question the Fisher information of the whole law, and mean and variance of the
    scores under the law without its tail."""

    level: float
    mass: float
    questions: tuple[Question, ...]
    fisher: np.ndarray
    mean: np.ndarray
    core: np.ndarray


@lru_cache(16)
def _null(law: KnownLaw) -> Null:
    """Since all scores have mean 0 under the whole law, their sum over the core is minus that over the tail."""
    level, mass = law.level(_TAIL)
    tail = law.table.log_density < level
    draws = law.draws[:_DRAWS]
    inside = draws[law.log_density(draws) >= level]
    scores = _scores(law, inside)
    square = (scores**2).mean(0)
    if tail.any():
        beyond, weights = _scores(law, law.table.x[tail]), law.table.weights[tail]
        first, second = weights @ beyond, weights @ beyond**2
        mean = -first / (1 - mass)
    else:
        mean, second = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    return Null(level, mass, tuple(_questions(law)), (1 - mass) * square + second, mean, square - mean**2)


def _detailed(law: KnownLaw) -> bool:
    return 1 <= len(law.arcs) <= _MOST_ARCS


def _tested_modes(law: KnownLaw) -> range:
    """All modes but one of two, whose weights are 1 minus each other."""
    return range(0 if len(law.mode_names) < 2 else 1 if len(law.mode_names) == 2 else len(law.mode_names))


def _questions(law: KnownLaw) -> list[Question]:
    smooth = law.has_score
    axes = [f"x{j + 1}" for j in range(law.dim)] if law.dim > 2 else ["x", "y"][: law.dim]
    out = [Question("shift", axis, "", 1.0) for axis in axes] if smooth else []
    out += [Question("width", "", "%", 100.0)] if smooth else []
    out += [Question("weight", law.mode_names[m], "points", 100.0) for m in _tested_modes(law)]
    if _detailed(law):
        for name in law.mode_names:
            out.append(Question("offset", name, "", 1.0))
            out += [Question("density", f"{name} order {j + 1}", "%", 100.0) for j in range(_ORDERS)]
    return out


def _scores(law: KnownLaw, x: np.ndarray) -> np.ndarray:
    """(n, questions) scores at points of R^dim, in the order of `_questions`."""
    if not law.is_mixture:
        return _plain_scores(law, x)
    columns = _columns(law)
    points = torch.from_numpy(x)
    return columns.scores(points, law.posterior(points, columns.all)[1]).numpy()


def _plain_scores(law: KnownLaw, x: np.ndarray) -> np.ndarray:
    """Of a law that is no mixture: by its score and a blur of a hundredth of its local variance."""
    out = []
    if law.has_score:
        variance = law.local_width**2
        ratio = np.exp(np.minimum(law.log_density(x, blur=0.1 * law.local_width) - law.log_density(x), 50.0)) - 1
        # a log width of theta is an extra variance of 2 theta times the local one
        out = [-law.score(x) / law.scale, 2 * variance * ratio[:, None] / (0.01 * variance)]
    modes = _tested_modes(law)
    if modes:
        w = law.mode_weights[list(modes)]
        out.append((law.mode_probs(x)[:, list(modes)] - w) / (w * (1 - w)))
    return np.hstack(out) if out else np.empty((len(x), 0))


class _Columns(NamedTuple):
    """What responsibilities are multiplied with (K, columns): moments, modes, and per arc normals and polynomials."""

    law: KnownLaw
    all: Tensor
    widths: list[int]

    def scores(self, x: Tensor, means: Tensor) -> Tensor:
        """(n, questions) from points (n, dim) and the posterior means of the columns there."""
        dim, law = self.law.dim, self.law
        precision, first, second, probs, *along = means.split(self.widths, dim=1)
        out = [(x * precision - first) / torch.from_numpy(law.scale)]
        out.append((x**2 * precision - 2 * x * first + second).sum(1, keepdim=True) - dim)
        w = torch.from_numpy(law.mode_weights)
        modes = _tested_modes(law)
        if modes:
            kept = slice(modes.start, modes.stop)
            out.append((probs[:, : modes.stop] - w)[:, kept] / (w * (1 - w))[kept])
        for sums in along:
            out += [(x * sums[:, :dim]).sum(1, keepdim=True) - sums[:, dim : dim + 1], sums[:, dim + 1 :]]
        return torch.cat(out, dim=1)


@lru_cache(16)
def _columns(law: KnownLaw) -> _Columns:
    c, v = law.centres, law.std**2
    modes = torch.nn.functional.one_hot(torch.tensor(law.mode_of), max(len(law.mode_names), 1)).to(torch.float64)
    columns = [1 / v, c / v, c**2 / v, modes]
    for arc in law.arcs if _detailed(law) else ():
        weights = law.weights[arc.rows].numpy()
        normal = torch.from_numpy(_normals(law.scale * c[arc.rows].numpy(), arc.u, weights) / law.scale) / v[arc.rows]
        polynomials = torch.from_numpy(_orthonormal(arc.u, weights))
        along = torch.cat([normal, (c[arc.rows] * normal).sum(1, keepdim=True), polynomials], dim=1)
        columns.append(torch.zeros(len(c), along.shape[1], dtype=torch.float64))
        columns[-1][arc.rows] = along
    return _Columns(law, torch.cat(columns, dim=1), [part.shape[1] for part in columns])


def _normals(points: np.ndarray, u: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(K, 2) unit normals of a plane curve, pointing on average away from the curve's mean."""
    tangent = np.gradient(points, u, axis=0)
    normal = np.column_stack([tangent[:, 1], -tangent[:, 0]]) / np.linalg.norm(tangent, axis=1, keepdims=True)
    outward = weights @ ((points - weights @ points / weights.sum()) * normal).sum(1)
    return normal if outward >= 0 else -normal


def _orthonormal(u: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(K, 4) Legendre polynomials, orthonormal and of mean 0 under the weights themselves."""
    root = np.sqrt(weights / weights.sum())
    q, triangle = np.linalg.qr(root[:, None] * np.polynomial.legendre.legvander(2 * u - 1, _ORDERS))
    return (q * np.sign(np.diag(triangle)) / root[:, None])[:, 1:]


# Words


def _number(value: float, se: float) -> str:
    """`62 ± 3`, `0.0203 ± 0.0010`: down to the first digit of the standard error, to the second where that is a 1."""
    if not (math.isfinite(value) and se > 0):
        return f"{abs(value):.3g}"
    order = math.floor(math.log10(se))
    places = max(0, -order + (se < 1.95 * 10**order))
    return f"{abs(value):.{places}f} ± {se:.{places}f}"


def _phrase(e: Estimate, noun: str) -> str:
    amount, more = _number(e.value, e.se), e.value > 0
    if e.kind == "shift":
        return f"shifted by {'' if more else '-'}{amount} in {e.where}"
    if e.kind == "width":
        return f"{noun} {amount} % too {'wide' if more else 'thin'}"
    if e.kind == "offset":
        return f"{e.where} {amount} too far {'out' if more else 'in'}"
    if e.kind == "weight":
        return f"{e.where} {amount} points too {'heavy' if more else 'light'}"
    return f"{amount} % of points off the support"


def _along(arc: str, orders: list[Estimate]) -> str:
    """Where along an arc the estimated density is farthest off, and by how much."""
    u = np.linspace(0, 1, 201)
    norms = np.sqrt(2 * np.arange(_ORDERS + 1) + 1)
    basis = (np.polynomial.legendre.legvander(2 * u - 1, _ORDERS) * norms)[:, 1:]
    density = basis @ np.array([e.value for e in orders])
    k = int(np.argmax(np.abs(density)))
    se = math.sqrt(float(basis[k] ** 2 @ np.array([e.se for e in orders]) ** 2))
    place = "its beginning" if u[k] < 0.1 else "its end" if u[k] > 0.9 else f"{100 * u[k]:.0f} % of its length"
    few = "few" if density[k] < 0 else "many"
    return f"{arc} has {_number(float(density[k]), se)} % too {few} points at {place}"


def questions(law: KnownLaw) -> Iterator[tuple[str, float]]:
    """Name of every score test of a law, and the Fisher information about it in one sample of the whole law."""
    null = _null(law)
    for question, information in zip(null.questions, null.fisher, strict=True):
        yield f"{question.kind} {question.where}".strip(), float(information)
