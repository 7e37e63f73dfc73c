"""Models that are a density: trained by maximum likelihood, drawn in one evaluation, judged end to end."""

import math

import pytest
import torch
from small import files, finished, tiny

from moonbed.component import SpecError
from moonbed.diffusion import Exact
from moonbed.diffusion.data import Data, Rows
from moonbed.diffusion.density import Density, Draw, MaximumLikelihood
from moonbed.diffusion.guidance import CFG
from moonbed.diffusion.predictions import Epsilon
from moonbed.diffusion.samplers import Heun
from moonbed.diffusion.schedules import VE, Cosine
from moonbed.experiments import run
from moonbed.experiments.evaluate import askable_of, exact_of, network_of
from moonbed.metrics.model import KL, Girsanov
from moonbed.metrics.two_sample import SlicedW1
from moonbed.networks.flow import SplineFlow
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons

NETWORK = SplineFlow(transforms=2, hidden=(32, 32))
FLOW = tiny(
    training__target=TwoMoons(noise=0.2),
    training__objective=MaximumLikelihood(),
    training__network=NETWORK,
    training__steps=250,
    training__optimizer__lr=5e-3,
    sampler=Draw(),
    n=300,
)


@pytest.fixture(scope="module")
def model():
    return network_of(FLOW.training, finished(FLOW.training).weights_for_sampling())


def test_the_loss_is_the_negative_log_likelihood():
    network, x0 = FLOW.training.build(), Rng(0).stream("x").normal((20, 2))
    made = MaximumLikelihood().examples(Epsilon(), Cosine(), Rows(x0), Data(None, x0), Rng(0).stream("l"))
    loss = MaximumLikelihood().loss(network, made)
    torch.testing.assert_close(loss, -Density(network, Cosine()).log_prob(x0).float())


def test_the_density_has_mass_one_and_its_samples_are_of_it(model):
    side = torch.linspace(-6, 6, 241, dtype=torch.float64)
    grid, cell = torch.cartesian_prod(side, side), float(side[1] - side[0]) ** 2
    log_q = model.log_prob(grid)
    assert log_q.dtype == torch.float64
    assert float(log_q.exp().sum() * cell) == pytest.approx(1, abs=0.01)
    x = model.draw(Rng(0).stream("n").normal((20_000, 2)))
    drawn = model.log_prob(x)
    assert float(drawn.mean()) == pytest.approx(float((log_q.exp() * log_q).sum() * cell), abs=0.05)
    mean, total = (grid * log_q.exp()[:, None]).sum(0) * cell, x.double().mean(0)
    torch.testing.assert_close(total, mean, rtol=0, atol=0.05)


def test_training_comes_near_the_law(model):
    law, x = FLOW.training.target, FLOW.training.target.sample(4_000, Rng(5).stream("x"))
    short = float((law.log_prob(x) - model.log_prob(x)).mean())
    start = Density(FLOW.training.build(), VE())
    assert short < 0.3
    assert short < float((law.log_prob(x) - start.log_prob(x)).mean()) / 3


def test_a_run_of_a_density(tmp_path):
    metrics = (SlicedW1(directions=16), KL(points=256), Girsanov())
    (first,) = run(FLOW, metrics=metrics, store=tmp_path, device="cpu")
    assert first.status == "done"
    assert set(first.values) == {metrics[0].id, metrics[1].id}
    assert 0 < first.values[metrics[1].id] < 0.4
    before = files(tmp_path)
    (again,) = run(FLOW, metrics=metrics, store=tmp_path, device="cpu")
    assert again.values == first.values
    assert files(tmp_path) == before


def test_the_divergence_is_that_of_its_density(tmp_path):
    """KL(law || model) is asked without noise, since a density has none."""
    metric = KL(points=2_000)
    (result,) = run(FLOW, metrics=(metric,), store=tmp_path, device="cpu")
    model, law = network_of(FLOW.training, finished(FLOW.training).weights_for_sampling()), FLOW.training.target
    x = law.sample(20_000, Rng(9).stream("x"))
    wanted = float((law.log_prob(x) - model.log_prob(x)).mean())
    assert result.values[metric.id] == pytest.approx(wanted, abs=0.06)
    low, high = result.answers[metric.id].interval
    assert low < wanted < high


def test_what_a_density_is_not_asked():
    lacking = askable_of(FLOW, (KL(), Girsanov(), SlicedW1()))
    assert lacking == {Girsanov().id: "needs a model with a score"}
    assert (FLOW.has_score, FLOW.has_density) == (False, True)
    with pytest.raises(SpecError, match="exact"):
        exact_of(FLOW)
    with pytest.raises(SpecError, match="label_dropout"):
        FLOW.replace(**{"training.label_dropout": 0.1})


def test_a_density_does_not_denoise(model):
    x = torch.zeros(3, 2)
    for method in (model, model.eps, model.velocity):
        with pytest.raises(ValueError, match="sample with Draw"):
            method(x, 0.5)
    with pytest.raises(ValueError, match="no score"):
        model.score(x, 0.5)
    with pytest.raises(ValueError, match="Draw is for densities, given Exact"):
        next(Draw().trajectory(Exact(TwoMoons(), Cosine()), x, Rng(0).stream("s")))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sampler": Heun()}, "sampler: a density is sampled by Draw"),
        ({"sampler": {"type": "Draw", "steps": 2}}, "steps: should be 1"),
        ({"schedule": "Cosine"}, "schedule: a density has neither"),
        ({"guidance": CFG(), "label": 0}, "a density has neither a schedule nor guidance"),
        ({"training.network": "MLP"}, "network: MLP is no density"),
        ({"training.objective": "Denoising"}, "network: SplineFlow is a density: its objective is MaximumLikelihood"),
        ({"training.prior": "EightGaussians"}, "training.prior: a density"),
    ],
    ids=str,
)
def test_what_does_not_go_with_a_density_is_refused(changes, why):
    with pytest.raises(SpecError, match=why):
        FLOW.replace(**changes)
    with pytest.raises(SpecError, match="sampler: a density is sampled by Draw"):
        tiny(sampler=Draw())


def test_drawing_takes_one_evaluation(model):
    noise = Rng(0).stream("n").normal((5, 2))
    states = list(Draw().trajectory(model, noise, Rng(0).stream("s")))
    assert len(states) == 1
    assert torch.equal(states[0], model.draw(noise))
    assert math.isfinite(float(states[0].sum()))
