"""The support vector machine in a low-rank feature space against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from moonbed.metrics import classifiers, svm, two_sample
from moonbed.metrics.svm import LowRankMachines
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons


def moons(n, seed=0):
    return TwoMoons().sample(n, Rng(seed).stream("samples")).numpy()


def normal(n, dim, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)) + shift


def exploded(size):
    x = moons(800)
    x[::100] *= size
    return x


PLANE = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, -0.5]])
CASES = {
    "equal laws": (moons(800), moons(800, 1)),
    "far from the origin": (moons(800) + 1e6, moons(800, 1) + 1e6),
    "shifted": (moons(800) + 0.3, moons(800, 1)),
    "apart": (moons(800) + 5.0, moons(800, 1)),
    "unequal numbers": (moons(700), moons(400, 1)),
    "the same points": (moons(800), moons(800)),
    "a few away": (exploded(4), moons(800, 1)),
    "a few far away": (exploded(1e8), moons(800, 1)),
    "a line": (normal(800, 1), normal(800, 1, 0.5, seed=1)),
    "a line in the plane": (np.pad(normal(800, 1), [(0, 0), (0, 1)]), np.pad(normal(800, 1, 0.5, 1), [(0, 0), (0, 1)])),
    "uniform": (np.random.default_rng(0).uniform(size=(800, 2)), np.random.default_rng(1).uniform(size=(800, 2))),
    "a plane in space": (moons(800) @ PLANE, moons(800, 1) @ PLANE),
}


@pytest.mark.parametrize("case", CASES)
def test_decisions_are_those_of_libsvm(case):
    x, y = CASES[case]
    points, label = np.vstack([y, x]), np.repeat([0, 1], [len(y), len(x)])
    order = np.random.default_rng(0).permutation(len(points))
    scale = StandardScaler().fit(points).scale_
    machines = LowRankMachines(points, label, points.shape[1] ** -0.5 / scale)
    for test in order[: len(order) // 5], order[-len(order) // 5 :]:
        train = np.setdiff1d(order, test)
        scaler = StandardScaler().fit(points[train])
        known = scaler.transform(points[train])
        gamma = 1 / (points.shape[1] * known.var())
        ours = machines.decision(train, test, np.sqrt(gamma) / scaler.scale_)
        theirs = (
            SVC(tol=1e-6, cache_size=500).fit(known, label[train]).decision_function(scaler.transform(points[test]))
        )
        assert ours == pytest.approx(theirs, abs=3e-4)
        assert np.mean((ours > 0) == (theirs > 0)) > 0.99


def test_basis_serves_scales_that_differ_a_little():
    x = moons(1000)
    label = np.arange(1000) % 2
    h = 1 / x.std(0) / np.sqrt(2)
    train, test = np.arange(800), np.arange(800, 1000)
    for factor in (0.92, 1.0, 1.08):
        near, own = LowRankMachines(x, label, h * factor), LowRankMachines(x, label, h)
        assert near.decision(train, test, h) == pytest.approx(own.decision(train, test, h), abs=1e-4)
        assert len(near._bases) == 1


def test_no_decision_where_the_kernel_has_no_low_rank():
    x = normal(2000, 8)
    machines = LowRankMachines(x, np.arange(2000) % 2, np.full(8, 8**-0.5))
    assert machines.decision(np.arange(1600), np.arange(1600, 2000), np.full(8, 8**-0.5)) is None


@pytest.mark.parametrize("dim", [1, 2, 3, 8])
def test_scores_are_those_of_libsvm(dim, monkeypatch):
    x, y = normal(1000, dim), normal(1000, dim, 0.1, seed=1)
    evaluation = {"splitter_seed": 7, "folds": 4, "repeats": 1}
    metrics = [two_sample.C2ST(score=score, **evaluation) for score in ("auc", "accuracy", "mean-auc")]
    ours = [metric(two_sample.Evaluation(x, y, Rng(0))) for metric in metrics]
    monkeypatch.setattr(svm, "_NODES", 0)
    theirs = [metric(two_sample.Evaluation(x, y, Rng(0))) for metric in metrics]
    assert ours == pytest.approx(theirs, abs=3e-3)


def test_a_lattice_whose_features_hold_the_constant():
    """The Newton matrix is then as good as singular."""
    rng = np.random.default_rng(0)
    x, label = rng.integers(0, 4, size=(1200, 1)).astype(float), rng.integers(0, 2, size=1200)
    every, h = np.arange(1200), np.ones(1)
    ours = LowRankMachines(x, label, h).decision(every, every, h)
    assert ours == pytest.approx(SVC(gamma=1.0, tol=1e-6).fit(x, label).decision_function(x), abs=1e-3)


def test_intercept_without_free_support_vectors_is_the_middle():
    x = np.repeat([[0.0], [1e-3]], 100, axis=0)
    label = np.repeat([0, 1], 100)
    every = np.arange(200)
    ours = LowRankMachines(x, label, np.ones(1)).decision(every, every, np.ones(1))
    theirs = SVC(gamma=1.0, tol=1e-8).fit(x, label).decision_function(x)
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_equal_points_tie():
    x = np.zeros((400, 2))
    x[0] = 1e12
    decide = classifiers._svm_decision(x, np.arange(400) % 2)
    assert len(set(decide(np.arange(300), np.arange(300, 400)).tolist())) == 1


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 1)), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None)
def test_area_by_ranks_is_scikit_learns(pairs):
    decision, label = np.array(pairs, dtype=float).T
    if 0 < label.sum() < len(label):
        assert classifiers.area_under_curve(decision, label.astype(int)) == pytest.approx(
            roc_auc_score(label, decision), rel=1e-12
        )
