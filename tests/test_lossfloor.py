"""The loss floor: the loss of the exact denoiser, by prediction, weight, times, regression; and where there is none."""

from __future__ import annotations

import math

import pytest
import torch
from small import finished, tiny

from moonbed.experiments.lossfloor import loss_floor
from moonbed.experiments.spec import Training
from moonbed.experiments.storage.store import Store
from moonbed.experiments.train import data_of
from moonbed.targets.mixtures import EightGaussians

LINEAR = {"schedule": "Linear", "objective": "Denoising"}
EDM = {"schedule": {"type": "VE", "sigma_max": 20.0}, "prediction": "EDM"}
CASES = {
    "Epsilon": {"schedule": "VPLinear", "prediction": "Epsilon", "objective": "Denoising"},
    "V": {"schedule": "Cosine", "prediction": "V", "objective": {"type": "Denoising", "weight": "P2"}},
    "Velocity": {**LINEAR, "prediction": "Velocity"},
    "EDM": {**EDM, "objective": {"type": "Denoising", "times": {"type": "LogNormal", "mean": -1.2}}},
}
ROWS = 8_000


def training(**changes) -> Training:
    return Training.parse({"type": "Training", "target": EightGaussians().spec(), "points": 20_000, **changes})


class Perfect:
    """A network that is the exact denoiser behind a prediction, told everything by x and c_noise."""

    def __init__(self, of: Training) -> None:
        self.of = of

    def __call__(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        schedule, prediction, law = self.of.schedule, self.of.prediction, self.of.target
        edm = type(prediction).__name__ == "EDM"
        t = schedule.time(-8 * c_noise.double()) if edm else c_noise.double()
        x_t = x.double() / prediction.c_in(schedule, t)[:, None]
        c_skip, c_out = prediction.scalings(schedule, t)
        x0 = law.denoise(x_t, schedule.alpha(t), schedule.sigma(t))
        return ((x0 - c_skip[:, None] * x_t) / c_out[:, None]).to(x)


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_loss_of_a_network_that_is_the_exact_denoiser(name):
    found = loss_floor(of := training(**CASES[name]), rows=ROWS)
    data, rows = data_of(of)
    examples = of.objective.examples(of.prediction, of.schedule, rows, data, of.rng.stream("another"))
    losses = of.objective.loss(Perfect(of), examples).double()
    error = math.hypot(found.error, float(losses.std()) / len(losses) ** 0.5)
    assert abs(found.value - float(losses.mean())) < 4 * error
    assert found.rows == ROWS
    assert 0 < found.error < 0.1 * found.value


def test_a_regression_with_less_variance_has_a_lower_floor_and_an_exact_one_none():
    def at(regression):
        return loss_floor(training(objective={"type": "Denoising", "regression": regression}), rows=2_048).value

    assert 0 < at("StableTarget") < at("Drawn")
    assert at("ExactMean") == 0


def test_labels_that_are_told_lower_it():
    plain, told = training(), training(label_dropout=0.0)
    assert loss_floor(told, rows=4_000).value < loss_floor(plain, rows=4_000).value
    both = loss_floor(training(label_dropout=0.5), rows=4_000)
    assert loss_floor(told, rows=4_000).value < both.value < loss_floor(plain, rows=4_000).value


def test_a_trained_network_stays_above_it():
    of = tiny(training__steps=600).training
    found, log = loss_floor(of), [line["loss"] for line in finished(of).log]
    assert min(log) > found.value - 4 * found.error


def test_importance_sampling_does_not_move_it():
    drawn = [
        loss_floor(training(objective={"type": "Denoising", "times": times}), rows=ROWS)
        for times in ("Uniform", {"type": "Stepwise", "mass": [1.0, 3.0]})
    ]
    assert abs(drawn[0].value - drawn[1].value) < 4 * math.hypot(drawn[0].error, drawn[1].error)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"objective": "ConsistencyTraining"}, "ConsistencyTraining is not regressed on data"),
        ({"objective": {"type": "Denoising", "coupling": "MinibatchOT"}}, "coupling"),
        ({"objective": {"type": "Denoising", "weight": "Uncertainty"}}, "Uncertainty is learned"),
    ],
)
def test_where_there_is_none_it_says_why(changes, why):
    found = loss_floor(training(**changes))
    assert found.value is None
    assert why in found.reason


def test_a_density_has_the_entropy_of_the_law():
    pytest.importorskip("zuko")
    of = training(objective="MaximumLikelihood", network="SplineFlow")
    found = loss_floor(of, rows=ROWS)
    points = of.target.sample(20_000, of.rng.stream("others"))
    assert found.value == pytest.approx(-float(of.target.log_prob(points).mean()), abs=5 * found.error)


def test_the_store_keeps_it(tmp_path, monkeypatch):
    store, of = Store(tmp_path), training()
    first = loss_floor(of, store, rows=1_000)
    monkeypatch.setattr("moonbed.experiments.lossfloor._losses", lambda *a: pytest.fail("computed again"))
    assert loss_floor(of, store, rows=1_000) == first
    assert loss_floor(of.replace(steps=7, network={"type": "MLP", "hidden": [8]}), store, rows=1_000) == first
    assert len([*tmp_path.glob("exact/*.json")]) == 1


def test_a_store_that_cannot_be_written_is_no_obstacle(tmp_path):
    (tmp_path / "file").write_text("")
    assert loss_floor(training(), Store(tmp_path / "file"), rows=500).value > 0


def test_a_normal_law_has_the_floor_of_the_textbook():
    """x_0 ~ N(0, I), variance preserved: Var(v | x_t) = 1, and Var(eps | x_t) = alpha²."""
    normal = {"target": {"type": "GaussianGrid", "side": 1}, "schedule": "Cosine", "objective": "Denoising"}
    v, eps = (loss_floor(training(**normal, prediction=name), rows=20_000) for name in ("V", "Epsilon"))
    assert v.value == pytest.approx(1.0, abs=4 * v.error)
    of = training(**normal)
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    mean = float((of.schedule.alpha(of.objective.times.quantile(t, of.schedule)) ** 2).mean())
    assert eps.value == pytest.approx(mean, abs=4 * eps.error)
