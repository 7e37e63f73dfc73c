"""Runs that need other trainings, other noise, or other couplings: teachers, guides, priors, and what is left out."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from small import METRICS, files, tiny

from moonbed.component import SpecError, members
from moonbed.diffusion.couplings import MinibatchOT, Pairs
from moonbed.diffusion.denoisers import Rescheduled
from moonbed.diffusion.fewstep import ConsistencyDistillation, ConsistencyTraining, MeanFlow, Shortcut
from moonbed.diffusion.guidance import CFG, AutoGuidance
from moonbed.diffusion.objectives import Denoising, Progressive
from moonbed.diffusion.predictions import Velocity
from moonbed.diffusion.regressions import Drawn, ExactMean, StableTarget
from moonbed.diffusion.samplers import DDIM, Heun, Jump, Renoise, Sampler
from moonbed.diffusion.schedules import Cosine, Linear
from moonbed.experiments import Experiment, Store, Training, process, run
from moonbed.experiments.engines import Progress
from moonbed.experiments.evaluate import askable_of
from moonbed.experiments.optimizers import AdamW
from moonbed.experiments.run import execute
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.runs import load_checkpoint
from moonbed.experiments.weights import denoiser_in
from moonbed.metrics.model import KL, Girsanov
from moonbed.metrics.two_sample import SlicedW1
from moonbed.networks.embeddings import Fourier
from moonbed.networks.mlp import MLP
from moonbed.rng import Rng
from moonbed.targets.mixtures import EightGaussians

BASE = tiny(
    training__schedule=Linear(), training__prediction=Velocity(), training__steps=60, sampler=Heun(steps=4), n=30
)
TEACHER = BASE.training
go = partial(run, metrics=METRICS, device="cpu")


def student(objective, sampler, teacher: Training | None = TEACHER, **changes) -> Experiment:
    return BASE.replace(**{"training.objective": objective, "training.teacher": teacher, "sampler": sampler} | changes)


STUDENTS = {
    "reflow": student(Denoising(coupling=Pairs(count=200, steps=4)), Heun(steps=4)),
    "progressive": student(Progressive(steps=2), Jump(steps=2)),
    "distillation": student(ConsistencyDistillation(), Renoise(steps=1)),
}
BROKEN = TEACHER.replace(optimizer=AdamW(lr=1e30), steps=150, clip=None)


@pytest.fixture
def trained_ids(monkeypatch):
    """The ids of the trainings that were started, in this process."""
    seen, real = [], process.advance

    def counted(trainings, *args):
        seen.extend(t.id for t in trainings)
        return real(trainings, *args)

    monkeypatch.setattr(process, "advance", counted)
    return seen


# Every objective, end to end


@pytest.mark.parametrize(
    "experiment",
    [
        *STUDENTS.values(),
        student(ConsistencyTraining(), Renoise(steps=2), None),
        student(MeanFlow(), Jump(steps=1), None),
        student(Shortcut(), Jump(steps=2), None),
        student(Denoising(coupling=MinibatchOT(rows=64)), Heun(steps=4), None),
        student(Denoising(weight="Uncertainty"), DDIM(steps=5, eta=1.0), None),
        student(MeanFlow(), Jump(steps=1), None, **{"training.label_dropout": 0.1, "label": 1}),
        student(Shortcut(), Jump(steps=1), None, **{"training.label_dropout": 0.1, "label": 0, "guidance": CFG()}),
        student(ConsistencyTraining(regression=Drawn()), Renoise(), None, **{"training.label_dropout": 0.1}),
        student(MeanFlow(), Jump(steps=2), None, schedule=Cosine()),
    ],
    ids=lambda e: f"{type(e.training.objective).__name__} {type(e.sampler).__name__}",
)
def test_every_objective_trains_samples_and_is_kept(tmp_path, experiment):
    assert Experiment.parse(json.loads(json.dumps(experiment.spec()))) == experiment
    (first,) = go(experiment, store=tmp_path)
    assert first.status == "done"
    assert all(value > 0 for value in first.values.values())
    assert first.exploded < experiment.n
    before = files(tmp_path, (".npy", ".safetensors", ".json"))
    (again,) = go(experiment, store=tmp_path)
    assert again == first
    assert files(tmp_path, (".npy", ".safetensors", ".json")) == before


@pytest.mark.slow
@pytest.mark.parametrize("objective", [MeanFlow(), Shortcut()], ids=lambda o: type(o).__name__)
def test_a_flow_map_that_is_trained_is_better_in_one_step(tmp_path, objective):
    network = MLP(hidden=(64, 64), embedding=Fourier())
    changes = {"training.steps": 800, "training.optimizer.lr": 3e-3, "training.network": network, "n": 1000}
    mine = student(objective, Jump(steps=1), None, **changes)
    plain = BASE.replace(**changes, sampler=Jump(steps=1))
    a, b = go([plain, mine], store=tmp_path)
    assert b.values[METRICS[0].id] < a.values[METRICS[0].id] / 2


# Teachers


def test_the_teacher_is_trained_first_and_once(tmp_path, trained_ids):
    results = go([*STUDENTS.values(), BASE], store=tmp_path)
    assert [r.status for r in results] == ["done"] * 4
    assert trained_ids == [TEACHER.id, *(e.training.id for e in STUDENTS.values())]
    go([*STUDENTS.values(), BASE], store=tmp_path)
    assert len(trained_ids) == 4


def test_a_teacher_of_a_teacher_comes_before_it(tmp_path, trained_ids):
    middle = STUDENTS["progressive"].training
    last = student(Progressive(steps=1), Jump(steps=1), middle)
    go(last, store=tmp_path)
    assert trained_ids == [TEACHER.id, middle.id, last.training.id]


def test_events_are_of_the_experiment_whose_turn_it_is(tmp_path):
    events = list(execute([STUDENTS["progressive"]], METRICS, Store(tmp_path), "cpu"))
    assert all(group == [STUDENTS["progressive"]] for group, _ in events)
    assert sum(isinstance(e, Progress) and e.stage == "train" for _, e in events) == 2


@pytest.mark.slow
def test_two_processes_do_the_same(tmp_path):
    experiments = [*STUDENTS.values(), BASE, STUDENTS["reflow"].replace(**{"training.seed": 1})]
    alone = go(experiments, store=tmp_path / "one")
    both = go(experiments, store=tmp_path / "two", jobs=2)
    assert [r.values for r in both] == [r.values for r in alone]
    assert files(tmp_path / "two") == files(tmp_path / "one")
    stored = {p.parent.name for p in (tmp_path / "two").rglob("weights.safetensors")}
    assert stored == {e.training.id for e in experiments}


def test_the_teacher_of_a_student_is_what_the_store_has(tmp_path):
    """Pairs of another teacher are other pairs."""
    first, second = (
        student(Denoising(coupling=Pairs(count=200, steps=4)), Heun(steps=4), TEACHER.replace(seed=s)) for s in (0, 1)
    )
    a, b = go([first, second], store=tmp_path)
    assert a.values != b.values
    assert first.training.id != second.training.id


def test_a_student_that_was_cut_off_goes_on(tmp_path):
    experiment = STUDENTS["reflow"].replace(**{"training.steps": 300})
    go(experiment, store=tmp_path / "whole")
    for _, event in execute([experiment], METRICS, Store(tmp_path / "cut"), "cpu"):
        if isinstance(event, Progress) and event.done == 200:
            break
    folder = Store(tmp_path / "cut").training(experiment.training)
    assert load_checkpoint(folder)[1] == 200
    go(experiment, store=tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_teacher_that_was_cut_off_goes_on(tmp_path, trained_ids):
    experiment = student(Progressive(steps=2), Jump(steps=2), TEACHER.replace(steps=300))
    go(experiment, store=tmp_path / "whole")
    for _, event in execute([experiment], METRICS, Store(tmp_path / "cut"), "cpu"):
        if isinstance(event, Progress) and event.done == 200:
            break
    go(experiment, store=tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_student_of_a_teacher_that_diverged_is_said_to_have_none(tmp_path, jobs):
    lost, fine = student(Progressive(), Jump(steps=4), BROKEN), BASE
    a, b = go([lost, fine], store=tmp_path, jobs=jobs)
    assert (a.status, b.status) == ("diverged", "done")
    assert a.message == f"its teacher {BROKEN.id} diverged"
    assert a.values == {}
    (again,) = go(lost, store=tmp_path)
    assert (again.status, again.message) == (a.status, a.message)


def test_another_seed_is_another_teacher():
    moved = STUDENTS["progressive"].shifted(3)
    assert (moved.training.seed, moved.training.teacher.seed) == (3, 3)
    guided = BASE.replace(guidance=AutoGuidance(), guide=TEACHER.replace(steps=20)).shifted(2)
    assert (guided.training.seed, guided.guide.seed) == (2, 2)


# Guides


def guided(guide: Training, **changes) -> Experiment:
    return BASE.replace(**{"guidance": AutoGuidance(scale=2.0), "guide": guide} | changes)


def test_a_guide_is_trained_and_guides(tmp_path, trained_ids):
    experiment = guided(TEACHER.replace(steps=20))
    plain, found = go([BASE, experiment], store=tmp_path)
    assert trained_ids == [TEACHER.replace(steps=20).id, TEACHER.id]
    assert found.values != plain.values
    store, x = Store(tmp_path), torch.ones(3, 2)
    strong, weak = (denoiser_in(store, BASE.replace(training=t), "cpu") for t in (TEACHER, experiment.guide))
    both = denoiser_in(store, experiment, "cpu")
    torch.testing.assert_close(both(x, 0.5), 2 * strong(x, 0.5) - weak(x, 0.5))


def test_a_guide_may_have_another_schedule(tmp_path):
    experiment = guided(TEACHER.replace(steps=20, schedule=Cosine()))
    go(experiment, store=tmp_path)
    store, x = Store(tmp_path), torch.ones(3, 2)
    own = denoiser_in(store, BASE.replace(training=experiment.guide), "cpu")
    strong, both = denoiser_in(store, BASE, "cpu"), denoiser_in(store, experiment, "cpu")
    torch.testing.assert_close(both(x, 0.5), 2 * strong(x, 0.5) - Rescheduled(own, Linear())(x, 0.5))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_guide_that_diverged_is_said_to_have(tmp_path, jobs):
    lost, fine = go([guided(BROKEN), BASE], store=tmp_path, jobs=jobs)
    assert (lost.status, fine.status) == ("diverged", "done")
    assert lost.message.startswith(f"its guide {BROKEN.id}: training diverged at step 2 ")
    assert lost.values == {}


# Priors


BETWEEN = tiny(
    training__schedule=Linear(),
    training__prediction=Velocity(),
    training__prior=EightGaussians(),
    training__steps=400,
    training__batch=128,
    training__optimizer__lr=5e-3,
    sampler=Heun(steps=8),
    n=400,
)


def test_a_flow_from_one_law_to_another(tmp_path, monkeypatch):
    starts, real = [], Heun.trajectory

    def seen(self, denoiser, noise, stream):
        starts.append(noise)
        return real(self, denoiser, noise, stream)

    monkeypatch.setattr(Heun, "trajectory", seen)
    from_prior, from_normal = BETWEEN, BETWEEN.replace(**{"training.prior": None})
    a, b = go([from_prior, from_normal], store=tmp_path)
    assert a.status == b.status == "done"
    assert a.values[METRICS[0].id] < 0.25
    radius = starts[0].norm(dim=1)
    assert float(radius.min()) > 0.9
    assert float(starts[1].norm(dim=1).min()) < 0.3
    prior = EightGaussians()
    assert torch.equal(starts[0], prior.sample(400, from_prior.rng.stream("noise")).float())


def test_transport_shortens_the_way_from_one_law_to_another(tmp_path):
    """With the coupling, one step of Euler's method comes nearer."""
    joined = BETWEEN.replace(**{"training.objective": Denoising(coupling=MinibatchOT(rows=128)), "sampler": "Euler"})
    plain = BETWEEN.replace(sampler="Euler")
    a, b = go([e.replace(**{"sampler.steps": 2}) for e in (plain, joined)], store=tmp_path)
    assert b.values[METRICS[0].id] < a.values[METRICS[0].id]


# What is not known there


WITHOUT_SCORE = {
    "transport": BASE.replace(**{"training.objective": Denoising(coupling=MinibatchOT())}),
    "prior": BETWEEN,
    "consistency": student(ConsistencyTraining(), Renoise(steps=1), None),
    "reflow": STUDENTS["reflow"],
}


@pytest.mark.parametrize("name", WITHOUT_SCORE)
def test_no_score_is_made_up(name):
    experiment = WITHOUT_SCORE[name]
    model = experiment.training.denoiser(experiment.training.build())
    with pytest.raises(ValueError, match="no score"):
        model.score(torch.zeros(3, 2), 0.5)
    model.velocity(torch.zeros(3, 2), 0.5)
    assert not experiment.has_score
    assert experiment.has_density == (name in ("transport", "reflow"))
    with pytest.raises(SpecError, match="there is no exact denoiser"):
        experiment.replace(exact=True)


@pytest.mark.parametrize("name", WITHOUT_SCORE)
def test_metrics_that_ask_for_a_score_are_left_out_with_the_reason(name, tmp_path):
    experiment, metrics = WITHOUT_SCORE[name], (Girsanov(points=64), KL(points=16), SlicedW1(directions=16))
    lacking = askable_of(experiment, metrics)
    assert lacking[metrics[0].id] == "needs a model with a score"
    assert lacking.get(metrics[1].id) == (None if experiment.has_density else "needs a model with a density")
    assert askable_of(BASE, metrics) == {}


def test_a_run_without_a_score_has_the_metrics_that_can_be_asked(tmp_path):
    metrics = (Girsanov(points=64), KL(points=16), SlicedW1(directions=16))
    (result,) = go(WITHOUT_SCORE["transport"], metrics=metrics, store=tmp_path)
    assert set(result.values) == {m.id for m in metrics[1:]}


@pytest.mark.parametrize("coupling", [MinibatchOT(), Pairs()], ids=str)
@pytest.mark.parametrize("regression", [ExactMean(), StableTarget()], ids=str)
def test_what_is_known_for_independent_normal_noise_is_refused_elsewhere(coupling, regression):
    teacher = TEACHER if coupling.teacher else None
    with pytest.raises(SpecError, match=r"objective\.regression: .* needs independent noise; .* is another"):
        TEACHER.replace(objective=Denoising(coupling=coupling, regression=regression), teacher=teacher)
    for objective in (Denoising(regression=regression), ConsistencyTraining(regression=regression)):
        with pytest.raises(SpecError, match=r"prior: .* knows the law of x_0 given x_t for normal noise only"):
            TEACHER.replace(objective=objective, prior=EightGaussians())
        with pytest.raises(SpecError, match=r"label_dropout: .* does not know the law of x_0 given x_t and the label"):
            TEACHER.replace(objective=objective, label_dropout=0.1)


def stochastic() -> list[Sampler]:
    made = [cls() for cls in members(Sampler).values()]
    return [*(s for s in made if s.needs_score), DDIM(eta=1.0)]


@pytest.mark.parametrize("sampler", stochastic(), ids=lambda s: type(s).__name__)
def test_samplers_that_ask_for_a_score_are_refused_where_there_is_none(sampler):
    assert BASE.replace(sampler=sampler).sampler == sampler
    for name in ("transport", "prior"):
        with pytest.raises(SpecError, match=r"sampler: .* needs a score"):
            WITHOUT_SCORE[name].replace(sampler=sampler)


# What else is refused

LABELS = {"training.label_dropout": 0.1}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"label": 0}, "label: the network is told no labels: training.label_dropout is not set"),
        (LABELS | {"label": 2}, "label: the network is told the labels 0 to 1, given 2"),
        ({"training.label_dropout": 0.0}, "label: the network was always told one"),
        (LABELS | {"training.target": "SwissRoll"}, "training.label_dropout: SwissRoll has no labels"),
        (LABELS | {"training.target": "PublishedMoons"}, "training.label_dropout: .*comes without labels"),
        (LABELS | {"training.teacher": TEACHER, "training.objective": Progressive()}, "followed without labels"),
        ({"guidance": CFG()}, "label: CFG needs the label"),
        (
            {"training.label_dropout": 0.0, "label": 0, "guidance": CFG()},
            "CFG needs a network trained with and without",
        ),
        ({"guidance": AutoGuidance()}, "guide: .*needs one"),
        ({"guide": TEACHER}, "guide: .*nothing else uses it"),
        (LABELS | {"label": 0, "guidance": CFG(), "guide": TEACHER}, "guide: .*nothing else uses it"),
        (LABELS | {"guidance": AutoGuidance(), "guide": TEACHER}, "guide: should be told 2 labels .*, given 0"),
        (
            {"guidance": AutoGuidance(), "guide": TEACHER.replace(target={"type": "Lifted", "dim": 3})},
            "guide: should have 2 dimensions, given 3",
        ),
        ({"training.prior": {"type": "Lifted", "dim": 3}}, "training.prior: should have 2 dimensions"),
        (
            {"training.teacher": TEACHER.replace(label_dropout=0.0), "training.objective": Progressive()},
            "training.teacher: is followed without labels",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_does_not_go_together_is_refused(changes, why):
    with pytest.raises(SpecError, match=why):
        BASE.replace(**changes)


def test_the_noise_of_a_prior_is_that_of_its_own_stream():
    one, other = (EightGaussians().sample(5, Rng(s).stream("noise")) for s in (0, 1))
    assert not torch.equal(one, other)


def test_a_width_that_no_snapshots_give_is_refused(tmp_path):
    narrow = tiny(training__averaging={"type": "PowerEMA", "snapshots": 4}, sigma_rel=0.004)
    with pytest.raises(StoreError, match="snapshots comes nearer"):
        run(narrow, metrics=METRICS, store=tmp_path, device="cpu", doubt=False)


def test_a_flow_is_followed_of_a_teacher_that_has_one():
    base = tiny().training
    consistent = base.replace(objective="ConsistencyTraining")
    for objective in ("ConsistencyDistillation", {"type": "Denoising", "coupling": "Pairs"}):
        with pytest.raises(SpecError, match="a flow to follow, given the objective ConsistencyTraining"):
            base.replace(objective=objective, teacher=consistent)
    base.replace(objective="Progressive", teacher=base.replace(objective="Progressive", teacher=base))
