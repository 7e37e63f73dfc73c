"""Every member of ours passes the laws of its kind; each law sees what it is there for, and says where and how much."""

import math
import re

import numpy as np
import pytest
import torch

from moonbed import Metric, Network, Prediction, Sampler, Schedule, laws
from moonbed.component import _REGISTRY, Component, SpecError, members
from moonbed.diffusion import Times, Weight
from moonbed.diffusion.predictions import EDM
from moonbed.diffusion.samplers import SteppingSampler
from moonbed.diffusion.schedules import Cosine
from moonbed.experiments.optimizers import AdamW, LearningRate
from moonbed.experiments.spec import Averaging
from moonbed.metrics.two_sample import SlicedW1
from moonbed.targets.base import Target, column
from moonbed.targets.curves import TwoMoons


@pytest.fixture(autouse=True)
def forgotten():
    """What a test defines is no member afterwards."""
    before = {kind: dict(family) for kind, family in _REGISTRY.items()}
    yield
    for kind in list(_REGISTRY):
        if kind not in before:
            del _REGISTRY[kind]
            continue
        _REGISTRY[kind].clear()
        _REGISTRY[kind].update(before[kind])


def broken(member):
    """Law in words -> message, of those that the member breaks."""
    return {verdict.law: verdict.message for verdict in laws.check(member) if not verdict.holds}


def ours():
    import moonbed.experiments  # noqa: F401

    slow = {"Sampler", "C2ST", "KL", "Girsanov", "SlicedW1Law"}
    for name, kind in {kind.__name__: kind for kind in _REGISTRY}.items():
        if name not in laws.LAWS or name == "Target":  # these are held one by one in tests/test_targets.py
            continue
        for cls in members(kind).values():
            if cls.__module__.startswith("moonbed."):
                marks = [pytest.mark.slow] if {name, cls.__name__} & slow else []
                yield pytest.param(cls, marks=marks, id=f"{name}-{cls.__name__}")


@pytest.mark.parametrize("cls", list(ours()))
def test_our_members_pass(cls):
    try:
        member = cls()
    except SpecError as error:
        pytest.skip(str(error))
    cheaper = {"KL": {"points": 8}, "C2ST": {"folds": 2}, "Diffusers": {"steps": 64}}
    member = member.replace(**cheaper.get(cls.__name__, {}))
    held = [law for law in laws.laws_of(member) if law is not laws.checks.sampler_ends_at_the_target]
    # the law of the target: tests/test_diffusion.py, for every sampler, with as many steps as each needs
    assert [v for v in (laws.verdict(law, member) for law in held) if not v.holds] == []


def test_a_target_of_ours_passes():
    assert not broken(TwoMoons(noise=0.2))


def test_laws_have_words():
    words = [laws.in_words(law) for family in laws.LAWS.values() for law in family]
    assert all(
        text[0] in "`xT" or text[0].isupper() or text[0].isdigit() or text[1] == "_" or " " in text for text in words
    )
    assert all(text.endswith(".") and len(text) < 120 for text in words)
    assert len(words) > 40


def test_a_kind_without_laws_has_none():
    class Flavour(Component):
        pass

    assert laws.laws_of(Flavour()) == ()
    assert list(laws.check(Flavour())) == []


def test_an_exception_is_a_broken_law_with_its_line():
    class Fails(Weight):
        def __call__(self, schedule, t, c_out):
            return [1] * t

    (first, *_) = laws.check(Fails())
    assert not first.holds
    assert re.fullmatch(r"TypeError: .* at .*test_laws\.py:\d+", first.message)


def test_close_says_what_is_wrong():
    x = torch.ones(3, dtype=torch.float64)
    for got, said in (
        (1.0, "a float, not a tensor"),
        (x[:2], r"shape \(2,\), not \(3,\)"),
        (x * math.nan, "3 of 3 values are NaN or infinite"),
        (x + 0.5, "off by 0.5"),
    ):
        with pytest.raises(laws.Broken, match=said):
            laws.close(got, x, "it")
    with pytest.raises(laws.Broken, match=r"float32, not torch\.float64"):
        laws.numbers(x.float(), (3,), "it")


# Schedules


def test_a_schedule_whose_snr_rises_somewhere():
    class Rises(Schedule):
        def alpha(self, t):
            return 1.01 - t

        def sigma(self, t):
            return (0.01 + t) * (1 - 0.5 * torch.exp(-(((t - 0.5) / 0.05) ** 2)))

    found = broken(Rises())
    message = found["The signal-to-noise ratio falls strictly in t."]
    assert re.match(r"logsnr rises by 0\.0\d+ between t = 0\.4\d* and 0\.4\d*", message)


def test_a_schedule_without_noise_at_an_end():
    class Clean(Schedule):
        def alpha(self, t):
            return 1 - 0.9 * t

        def sigma(self, t):
            return t

    message = broken(Clean())["alpha and sigma are positive, finite and float64 on [0, 1]."]
    assert message == "sigma is 0 at t = 0, not positive"


def test_a_schedule_with_a_wrong_time():
    class Late(Cosine):
        def time(self, logsnr):
            return (super().time(logsnr) + 0.01).clamp(0, 1)

    assert list(broken(Late()).values()) == ["time(logsnr(t)) = t: off by 0.01 (rtol 0, atol 1e-09)"]


def test_a_schedule_with_wrong_derivatives_or_in_float32():
    class Swapped(Cosine):
        def derivatives(self, t):
            return super().derivatives(t)[::-1]

    class Single(Cosine):
        def alpha(self, t):
            return super().alpha(t).float()

    assert "derivative of alpha: off by" in "".join(broken(Swapped()).values())
    assert "alpha: torch.float32, not torch.float64" in broken(Single()).values()


# Predictions


def test_predictions_with_a_wrong_c_skip():
    class Sign(Prediction):
        def scalings(self, schedule, t):
            a, s = schedule.alpha(t), schedule.sigma(t)
            return -1 / a, -s / a

    class Forgetful(EDM):
        def scalings(self, schedule, t):
            c_skip, c_out = super().scalings(schedule, t)
            return c_skip / schedule.alpha(t), c_out

    ((law, message),) = broken(Sign()).items()
    assert law.startswith("The F that is right")
    assert re.search(r"under Cosine\(.*\): slope \d+ at t = 0, more than 30: is c_skip right\?", message)
    assert "variance of F" in "".join(broken(Forgetful()).values())


def test_a_prediction_without_an_output():
    class Nothing(Prediction):
        def scalings(self, schedule, t):
            return torch.ones_like(t), torch.zeros_like(t)

    assert any("|c_out| is 0" in message for message in broken(Nothing()).values())


# Targets


class _Disc:
    """N(0, I), right in all but what a test changes."""

    def sample(self, n, stream):
        return stream.normal((n, 2), torch.float64)

    def log_prob(self, x, alpha=1.0, sigma=0.0):
        sd = torch.sqrt(column(alpha) ** 2 + column(sigma) ** 2).expand(len(x), 2)
        return torch.distributions.Normal(0.0, sd).log_prob(x.double()).sum(1)

    def denoise(self, x_t, alpha, sigma):
        alpha, sigma = column(alpha), column(sigma)
        return alpha / (alpha**2 + sigma**2) * x_t.double()


def test_the_disc_is_right():
    class Disc(_Disc, Target):
        pass

    assert not broken(Disc())


def test_a_density_off_by_a_constant():
    class Heavy(_Disc, Target):
        def log_prob(self, x, alpha=1.0, sigma=0.0):
            return super().log_prob(x, alpha, sigma) + 0.1

    assert broken(Heavy())["The density has mass one at every noise level."].startswith("mass 1.105")


def test_a_denoiser_that_is_not_tweedie():
    class Shrunk(_Disc, Target):
        def denoise(self, x_t, alpha, sigma):
            return 0.9 * super().denoise(x_t, alpha, sigma)

    messages = broken(Shrunk())
    assert any(re.match(r"Tweedie at alpha = 1.0, sigma = 0.1: off by 0\.\d+", text) for text in messages.values())


def test_samples_that_are_wider_than_the_density():
    class Wide(_Disc, Target):
        def sample(self, n, stream):
            return 1.1 * super().sample(n, stream)

    ((law, message),) = broken(Wide()).items()
    assert law == "The samples follow the density."
    assert re.search(r"p = \S+, [5-9]\.\d% of 20,000 samples are in other cells", message)


def test_samples_that_are_not_the_streams_or_are_nan():
    class Loose(_Disc, Target):
        def sample(self, n, stream):
            return torch.randn(n, 2, dtype=torch.float64)

    class Gaps(_Disc, Target):
        def sample(self, n, stream):
            x = super().sample(n, stream)
            x[::4] = math.nan
            return x

    assert any("draw from the stream" in text for text in broken(Loose()).values())
    assert any("samples: of 40000 values 10000 are NaN" in text for text in broken(Gaps()).values())


def test_a_density_of_one_level_for_all_rows():
    class Single(_Disc, Target):
        def log_prob(self, x, alpha=1.0, sigma=0.0):
            alpha, sigma = (torch.as_tensor(c).reshape(-1)[0] for c in (alpha, sigma))
            return super().log_prob(x, alpha, sigma)

    assert any("with alpha and sigma of shape (4,): off by" in text for text in broken(Single()).values())


# Weights and times


def test_weights_that_are_wrong():
    class Negative(Weight):
        def __call__(self, schedule, t, c_out):
            return 0.5 - t

    class Relative(Weight):
        def __call__(self, schedule, t, c_out):
            w = torch.exp(-t)
            return w / w.mean()

    assert any("-0.5 at t = 1, not positive" in text for text in broken(Negative()).values())
    assert any("differ by 0" in text for text in broken(Relative()).values())


def test_times_that_are_wrong():
    class Outside(Times):
        def quantile(self, u, schedule):
            return 1.2 * u

    class Shaken(Times):
        def quantile(self, u, schedule):
            return torch.rand(len(u), dtype=torch.float64)

    class Other(Times):
        def quantile(self, u, schedule):
            return u

        def draw(self, n, schedule, stream):
            return stream.uniform((n,), torch.float64) ** 2, 2.0

    assert any("from 0 to 1.2, not within [0, 1]" in text for text in broken(Outside()).values())
    assert any("the same u give times that differ" in text for text in broken(Shaken()).values())
    assert any("distance 0.2" in text for text in broken(Other()).values())


# Networks


class _Plain(torch.nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(dim + 1, 8), torch.nn.Linear(8, dim)

    def forward(self, x, c_noise):
        level = c_noise.expand(len(x)).unsqueeze(1)
        return self.outer(torch.tanh(self.inner(torch.cat([x, level], dim=1))))


class _NeedsAll(_Plain):
    def forward(self, x, c_noise):
        return super().forward(x, c_noise.reshape(len(x)))


class _Deaf(_Plain):
    def forward(self, x, c_noise):
        return super().forward(x, 0 * c_noise)


class _Mixes(_Plain):
    def forward(self, x, c_noise):
        return super().forward(x - x.mean(0), c_noise)


class _Idle(_Plain):
    def __init__(self, dim):
        super().__init__(dim)
        self.spare = torch.nn.Linear(3, 3)


class _Noisy(_Plain):
    def forward(self, x, c_noise):
        out = super().forward(x, c_noise)
        return out + 1e-3 * torch.randn(out.shape)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (_NeedsAll, "RuntimeError: shape '[7]' is invalid for input of size 1 at"),
        (_Deaf, "c_noise moved by 0.5 changes nothing"),
        (_Mixes, "rows asked together and one by one differ by"),
        (_Idle, "no gradient reaches 2 of 6 parameters: spare.weight, spare.bias"),
        (_Noisy, "one input gives outputs that differ by"),
        (_Plain, None),
    ],
)
def test_networks(module, said):
    class Net(Network):
        def build(self, dim):
            return module(dim)

    found = broken(Net())
    assert any(said in text for text in found.values()) if said else not found


# Samplers


class _Midpoint:
    reach, slope, noise = 0.5, 1.0, 0.0

    def step(self, denoiser, x, t, u, stream):
        half = x + self.reach * float(u - t) * denoiser.velocity(x, t)
        x = x + self.slope * float(u - t) * denoiser.velocity(half, (t + u) / 2)
        return x + self.noise * stream.normal(x.shape).to(x)


def test_a_sampler_of_the_wrong_order():
    class Half(_Midpoint, SteppingSampler):
        order = 2
        reach = 1.0

    found = laws.verdict(laws.checks.sampler_converges, Half())
    assert not found.holds
    assert re.search(r"declares order 2; from 48 steps on it is [01]\.\d+", found.message)


def test_samplers_that_end_elsewhere(monkeypatch):
    monkeypatch.setattr(laws.checks, "ENOUGH", 64)

    class Short(_Midpoint, SteppingSampler):
        slope = 0.9

    class Rough(_Midpoint, SteppingSampler):
        noise = 0.1

    for sampler in (Short(), Rough()):
        found = laws.verdict(laws.checks.sampler_ends_at_the_target, sampler)
        sizes = r"do not follow the target \(p = \S+\); mean \(.*\), standard deviation \(.*\), the truth has mean 0"
        assert not found.holds
        assert re.search(sizes, found.message)


def test_a_sampler_that_is_not_the_streams():
    class Loose(Sampler):
        def trajectory(self, denoiser, noise, stream):
            for _ in range(self.steps):
                yield torch.randn(noise.shape, dtype=noise.dtype)

    found = laws.verdict(laws.checks.sampler_steps, Loose(steps=4))
    assert found.message.endswith("one noise and one stream give two samples")


def test_a_sampler_without_an_end():
    class Endless(Sampler):
        def trajectory(self, denoiser, noise, stream):
            while True:
                yield noise

    assert set(broken(Endless()).values()) == {"2 steps yield 10,002 states and more"}


# Metrics


def test_a_constant_metric():
    class Always(Metric):
        def __call__(self, evaluation):
            return 0.25

    assert list(broken(Always()).values()) == ["the value is 0.25 whatever the samples are"]


def test_a_metric_that_draws_from_elsewhere():
    class Unseeded(SlicedW1):
        def __call__(self, evaluation):
            return super().__call__(evaluation) + 1e-3 * np.random.default_rng().normal()

    message = broken(Unseeded())["The same evaluation has the same value, and is left as it was."]
    assert re.match(r"one evaluation has the values 0\.\d+ and 0\.\d+: draw from evaluation\.stream", message)


def test_a_blind_metric_and_one_that_looks_the_other_way():
    class Blind(Metric):
        def __call__(self, evaluation):
            return float(evaluation.stream("blind").normal((1,)))

    class Backwards(SlicedW1):
        lower_is_better = False

    for metric in (Blind(), Backwards()):
        message = broken(metric)["At least one gross defect is beyond all exact draws, on the bad side."]
        assert re.match(r"exact samples have \S+ to \S+, and no defect is all (above|below) that", message)
        assert "samples shifted by 0.5: " in message


def test_a_metric_that_needs_more_than_it_says():
    class Silent(Metric):
        def __call__(self, evaluation):
            return -float(evaluation.law.log_density(evaluation.samples).mean())

    message = broken(Silent())["Asked with no more than `needs` names, it answers."]
    assert message.startswith('it works with "law" only')


def test_metrics_whose_values_are_no_numbers():
    class Rows(Metric):
        def __call__(self, evaluation):
            return evaluation.samples.mean(0)

    class Undefined(Metric):
        def __call__(self, evaluation):
            return math.nan

    assert all("a ndarray of shape (2,), not a number" in text for text in broken(Rows()).values())
    assert any("the value is NaN" in text for text in broken(Undefined()).values())


def test_a_metric_that_is_one_sided_or_changes_what_it_sees():
    class Lopsided(Metric):
        def __call__(self, evaluation):
            return float(abs(evaluation.samples).max() - evaluation.reference.mean())

    class Careless(SlicedW1):
        def __call__(self, evaluation):
            value = super().__call__(evaluation)
            evaluation.samples[:] = 0
            return value

    assert any("with samples and reference changing places" in text for text in broken(Lopsided()).values())
    assert any("changed in place" in text for text in broken(Careless()).values())


def test_a_metric_that_remembers():
    class Counts(SlicedW1):
        def __call__(self, evaluation):
            CALLS.append(1)
            return super().__call__(evaluation) + 0.1 * len(CALLS)

    CALLS = []
    assert any("is something kept between them?" in text for text in broken(Counts()).values())


# Training


def test_optimisers_rates_and_averages_that_are_wrong():
    class Uphill(AdamW):
        def build(self, parameters):
            return torch.optim.SGD(parameters, lr=self.lr, maximize=True)

    class Sinks(LearningRate):
        def __call__(self, step, steps):
            return 0.5 - step / steps

    class Leaks(Averaging):
        def update(self, averages, weights, step):
            averages.mul_(0.9).add_(0.05 * weights)

    assert any("mean square error" in text for text in broken(Uphill()).values())
    assert any("at step 6 of 10" in text for text in broken(Sinks()).values())
    assert any("off by" in text for text in broken(Leaks()).values())
