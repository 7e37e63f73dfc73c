"""Classifiers that are asked which of two samples a point is from.

Each makes of points and labels a function (training rows, test rows) -> decision values of the test rows, positive for
the label 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.metrics.pairs import pairs

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["CLASSIFIERS", "area_under_curve"]

_TIE = 2.0**30  # decision values are multiples of 1/this: equal points have equal ones in spite of rounding
_GRAM = 10_000  # training points up to which a kernel matrix is held (800 MB)

_Decision = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]


def area_under_curve(decision: np.ndarray, label: np.ndarray) -> float:
    """Area under the curve by ranks (Mann and Whitney), ties counting half."""
    from scipy.stats import rankdata

    ones = int(label.sum())
    return float(rankdata(decision)[label > 0].sum() - ones * (ones + 1) / 2) / (ones * (len(label) - ones))


def _standardised(x: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x[train])
    return scaler.transform(x[train]), scaler.transform(x[test])


def _logistic_decision(x: np.ndarray, label: np.ndarray) -> _Decision:
    from sklearn.linear_model import LogisticRegression

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        known, asked = _standardised(x, train, test)
        return np.asarray(LogisticRegression().fit(known, label[train]).decision_function(asked))

    return decide


# A fifth of the time of the defaults, 100 trees and 255 bins, and no less power (docs/metrics.md)
_BOOSTING = {"max_iter": 20, "learning_rate": 0.2, "max_bins": 64, "early_stopping": False, "random_state": 0}


def _boosting_decision(x: np.ndarray, label: np.ndarray) -> _Decision:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        known, asked = _standardised(x, train, test)
        with threadpool_limits(1):  # the order of its sums depends on the number of threads
            machine = HistGradientBoostingClassifier(**_BOOSTING).fit(known, label[train])
            return np.asarray(machine.decision_function(asked))

    return decide


def _svm_decision(x: np.ndarray, label: np.ndarray) -> _Decision:
    """Of `SVC(tol=0)`; of `SVC()`, libsvm's with its tolerance of 1e-3, where the kernel has no low rank."""
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    from moonbed.metrics.svm import LowRankMachines

    def scaled(x: np.ndarray) -> tuple[StandardScaler, np.ndarray, float]:
        scaler = StandardScaler().fit(x)
        known = scaler.transform(x)
        return scaler, known, 1 / (x.shape[1] * (known.var() or 1.0))

    scaler, _, gamma = scaled(x)
    machines = LowRankMachines(x, label, math.sqrt(gamma) / scaler.scale_)

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        scaler, known, gamma = scaled(x[train])
        decision = machines.decision(train, test, math.sqrt(gamma) / scaler.scale_)
        if decision is not None:
            return np.round(decision * _TIE) / _TIE
        asked = scaler.transform(x[test])
        if len(train) > _GRAM:
            return np.asarray(SVC(cache_size=1000).fit(known, label[train]).decision_function(asked))
        gram, across = _grams(known, asked, gamma)
        machine = SVC(kernel="precomputed", cache_size=1000).fit(gram, label[train])
        return np.asarray(machine.decision_function(across))

    return decide


def _grams(x: np.ndarray, test: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Kernel matrices of x with x and of test with x: libsvm is twice as fast where they are given to it."""
    gram, across = np.zeros((len(x), len(x))), np.empty((len(test), len(x)))
    for rows, points, squared in pairs(x):
        k = np.exp(np.multiply(squared, -gamma, out=squared), out=squared)
        gram[rows, points] = k
        gram[points, rows] += k.T
    np.fill_diagonal(gram, 1.0)
    for rows, points, squared in pairs(test, x):
        np.exp(np.multiply(squared, -gamma, out=squared), out=across[rows, points])
    return gram, across


CLASSIFIERS = {"svm": _svm_decision, "logistic": _logistic_decision, "boosting": _boosting_decision}
