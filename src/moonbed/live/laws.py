"""Exact laws as arrays: mixtures of Gaussians, and of boxes, in the coordinates of the samples.

A curve with noise is a mixture at the nodes of its quadrature; a law of one label is the part of a mixture. Everything
else about them at any noise level (density, denoiser, samples) follows from these arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.live.tilts import as_mixture
from moonbed.targets import Target
from moonbed.targets.boxes import Boxes, BoxMixture
from moonbed.targets.given import Given
from moonbed.targets.lifted import Lifted
from moonbed.targets.mixtures import GaussianMixture, Mixture
from moonbed.targets.published import PublishedMoons
from moonbed.targets.tilted import Tilt, Tilted

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

__all__ = ["MOST", "Unknown", "describe", "parts"]

MOST = 4096
"""Gaussians or boxes of a law; the page sums over all of them for every point."""


class Unknown(Exception):
    """A law that is no mixture, or one too large; the message says what it is."""


def parts(law: Any) -> tuple[Mixture | BoxMixture, Any]:
    """The mixture that a target, or the law of a part of one, is, and the labels (K,) of its components or None.

    Raises `Unknown`.
    """
    found, labels = _mixture(law)
    if len(found.weights) > MOST:
        raise Unknown(f"its law is a sum of {len(found.weights):,} parts; the page takes {MOST:,} at most")
    return found, labels


def _mixture(law: Any) -> tuple[Mixture | BoxMixture, Any]:
    if isinstance(law, Mixture | BoxMixture):
        return law, None
    if isinstance(law, GaussianMixture | Boxes):
        return law.mixture, law.labels if law.classes > 1 else None
    if isinstance(law, Tilted) and isinstance(law.law, Tilt):
        return _tilted(law.law, law.target)
    if isinstance(law, PublishedMoons | Given | Tilted):
        return _mixture(law.law)
    if isinstance(law, Lifted):
        return _lifted(law)
    raise Unknown(f"the law of {type(law).__name__} is not a mixture of Gaussians or boxes")


def _lifted(law: Lifted) -> tuple[Mixture, Any]:
    """A mixture stays one if it is as wide in all coordinates, and fills all dimensions."""
    inner, labels = _mixture(law.target)
    if law.dim > law.target.dim or not isinstance(inner, Mixture):
        raise Unknown(f"its law in {law.dim} dimensions is not a mixture of round Gaussians")
    std = inner.std.expand(len(inner.weights), -1)
    if not torch.allclose(std, std[:, :1]):
        raise Unknown("its Gaussians are not round, and turned")
    scale = 1 / float(law.scale[0])
    wide = scale * torch.sqrt(std**2 + law.noise**2)
    return Mixture(inner.weights, scale * inner.centres @ law.isometry.T, wide), labels


def _tilted(tilt: Tilt, target: Target) -> tuple[Mixture, Any]:
    whole, _ = _mixture(target)
    found = as_mixture(tilt, whole) if isinstance(whole, Mixture) and len(whole.weights) <= MOST else None
    if found is None:
        raise Unknown("no mixture that the page could carry is near enough to the tilted law")
    return found, None


def describe(law: Any, add: Callable[[Any, str], Mapping[str, Any]]) -> dict[str, Any]:
    """The law as JSON; `add` stores an array and says where."""
    try:
        found, labels = parts(law)
    except Exception as error:  # a stranger's target may fail in any way, and data may be elsewhere
        return {"kind": "none", "reason": str(error)}
    common: dict[str, Any] = {"dim": int(found[1].shape[1]), "log_weights": add(torch.log(found.weights), "f8")}
    if labels is not None:
        common["labels"] = add(labels, "i4")
    if isinstance(found, BoxMixture):
        low, width = add(found.low, "f8"), add(found.high - found.low, "f8")
        return {"kind": "boxes", **common, "low": low, "width": width}
    std = found.std[None] if found.std.ndim == 1 else found.std
    return {"kind": "mixture", **common, "centres": add(found.centres, "f8"), "variances": add(std**2, "f8")}
