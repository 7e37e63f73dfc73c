"""What a process of its own measures: generators of seconds, which `common.Worker` asks for one at a time.

The first value of a training is that of its start, with whatever is compiled; all others are seconds a step. Only
Moonbed's public doors are used: `train`, `generate`, `draw_floors`, `run`, and metrics of an `Evaluation`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from common import serve


def experiment_of(preset: str, protocol: str = "default", **changes: Any) -> Any:
    from moonbed.experiments.presets import PRESETS, published

    experiment = PRESETS[preset].replace(**changes)
    return published(experiment) if protocol == "published" else experiment


# Training


def moonbed_training(preset: str, steps: int, protocol: str = "default", **changes: Any) -> Iterator[float]:
    """`steps` is the least number of steps between two values; a second block is warm-up as well."""
    from moonbed.experiments.train import State, train

    training = experiment_of(preset, protocol, **changes).training
    training.build()  # imports are not counted
    started = time.perf_counter()
    state = State(training)
    walk = train(training, state)
    next(walk)
    yield time.perf_counter() - started
    next(walk)
    while True:
        begun, started = state.step, time.perf_counter()
        while state.step < begun + steps:
            next(walk)
        yield (time.perf_counter() - started) / (state.step - begun)


def moonbed_whole(preset: str, protocol: str = "default", **changes: Any) -> Iterator[float]:
    """Seconds of a whole training, from its configuration to its last weight.

    Where torch has more than one thread it is as `moonbed run` does it: one trains, one prepares the next block.
    """
    import torch

    from moonbed.experiments.train import State, train

    training = experiment_of(preset, protocol, **changes).training
    training.build()
    ahead = torch.get_num_threads() > 1
    torch.set_num_threads(1)
    while True:
        started = time.perf_counter()
        state = State(training)
        for _ in train(training, state, ahead):
            pass
        yield time.perf_counter() - started


def plain_training(row: str, steps: int, batch: int = 512) -> Iterator[float]:
    import plain

    started = time.perf_counter()
    walk = plain.Run(row, batch=batch).train()
    list(islice(walk, 100))
    yield time.perf_counter() - started
    while True:
        started = time.perf_counter()
        for _ in islice(walk, steps):
            pass
        yield (time.perf_counter() - started) / steps


def jax_training(network: str, steps: int) -> Iterator[float]:
    import jax_step

    return jax_step.training(network, steps)


def products(row: str, steps: int, batch: int = 512) -> Iterator[float]:
    """The matrix products of a step alone, nothing allocated: x W' forward, g' x and g W for the gradients.

    g W only where the input needs a gradient: not of the first layer on x alone, nor of the first of the embedding.
    """
    import plain
    import torch
    from torch import nn

    found: list[tuple[int, int, bool]] = []
    network = plain.network(plain.ROWS[row].network)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(
                lambda layer, given, _: found.append((layer.in_features, layer.out_features, given[0].requires_grad))
            )
    network(torch.randn(batch, 2), torch.rand(batch))
    work = []
    for a, b, needed in found:
        x, g, w = torch.randn(batch, a), torch.randn(batch, b), torch.randn(b, a)
        work += [(x, w.T, torch.empty(batch, b)), (g.T, x, torch.empty(b, a))]
        if needed:
            work.append((g, w, torch.empty(batch, a)))
    while True:
        started = time.perf_counter()
        for _ in range(steps):
            for left, right, out in work:
                torch.mm(left, right, out=out)
        yield (time.perf_counter() - started) / steps


# Sampling: the network is untrained, which costs the same


def moonbed_sampling(preset: str, n: int, steps: int, **changes: Any) -> Iterator[float]:
    """Seconds a step over the next `steps` steps, of as many trajectories as it takes."""
    from moonbed.experiments.evaluate import denoiser_of, generate

    experiment = experiment_of(preset, n=n, **changes)
    denoiser = denoiser_of(experiment, experiment.training.build().state_dict(), "cpu")
    walk = (x for _ in count() for x in generate(experiment, denoiser, "cpu"))
    yield from _timed(walk, steps)


def plain_sampling(row: str, n: int, steps: int, total: int) -> Iterator[float]:
    import plain

    run = plain.Run(row)
    yield from _timed((x for _ in count() for x in run.sample(n, total)), steps)


def forwards(preset: str, n: int, steps: int) -> Iterator[float]:
    """The network's own forward passes alone, at one time for all points."""
    import torch

    network = experiment_of(preset).training.build().eval()
    x, t = torch.randn(n, 2), torch.full((1,), 0.5)

    def walk() -> Iterator[Any]:
        while True:
            with torch.no_grad():
                x_t = network(x, t)
            yield x_t

    yield from _timed(walk(), steps)


def _timed(walk: Iterator[Any], steps: int) -> Iterator[float]:
    for _ in islice(walk, 5):
        pass
    while True:
        started = time.perf_counter()
        for _ in islice(walk, steps):
            pass
        yield (time.perf_counter() - started) / steps


# Evaluation


def four() -> tuple[Any, ...]:
    """MMD, energy distance, sliced W1, and both scores of the C2ST: what plain.py computes."""
    from moonbed.metrics.suites import SUITES

    return SUITES["published"][:5]


def moonbed_values(n: int) -> Iterator[float]:
    """The four published metrics of new exact samples against the published reference, no interval, no floor."""
    from moonbed.metrics import Evaluation
    from moonbed.rng import Rng
    from moonbed.targets.published import PublishedMoons

    target = PublishedMoons()
    for k in count():
        rng = Rng(0).child("speed", k)
        size = n if k else 64  # the first is warm-up
        x, y = target.sample(size, rng.stream("samples")).numpy(), target.dataset(size, rng.stream("y")).numpy()
        started = time.perf_counter()
        evaluation = Evaluation(x, y, rng, law=target)
        for metric in four():
            float(metric(evaluation))
        yield time.perf_counter() - started


def moonbed_floors(n: int, draws: int, most: float, jobs: int) -> Iterator[dict[str, float]]:
    """Seconds of a floor of `draws` draws; where one draw says that it takes more than `most`, of that one."""
    from moonbed.experiments.engines import Local
    from moonbed.experiments.floors import draw_floors
    from moonbed.experiments.storage.store import Store
    from moonbed.targets.published import PublishedMoons

    with tempfile.TemporaryDirectory() as folder:
        target, metrics, store = PublishedMoons(), four(), Store.at(folder)
        list(draw_floors(target, metrics, 64, 1, store))
        started = time.perf_counter()
        list(draw_floors(target, metrics, n, 1, store))
        drawn, seconds = 1, time.perf_counter() - started
        if draws > 1 and draws * seconds <= most:
            list(draw_floors(target, metrics, n, draws, store, Local(jobs=jobs)))
            drawn, seconds = draws, time.perf_counter() - started
        yield {"drawn": drawn, "seconds": seconds * draws / drawn}


def plain_values(n: int) -> Iterator[float]:
    import plain

    samples, reference = plain.moons(n, random_state=0), plain.moons(n)
    plain.evaluate(samples[:64], reference[:64])
    while True:
        started = time.perf_counter()
        plain.evaluate(samples, reference)
        yield time.perf_counter() - started


# Whole runs


def moonbed_quality(preset: str, **changes: Any) -> Iterator[dict[str, Any]]:
    """What the preset reaches: metric -> value and 95 % interval."""
    from moonbed.experiments.run import run
    from moonbed.metrics.detection import N50
    from moonbed.metrics.model import Girsanov
    from moonbed.metrics.two_sample import Energy, SlicedW1

    metrics = (Girsanov(), Energy(statistic="V", root=True), SlicedW1(), N50())
    with tempfile.TemporaryDirectory() as folder:
        answers = run(experiment_of(preset, **changes), metrics=metrics, store=folder, device="cpu")[0].answers
        yield {m.label: {"value": answers[m.id].value, "interval": answers[m.id].interval} for m in metrics}


def moonbed_together(preset: str, seeds: int, steps: int, stacked: bool, **changes: Any) -> Iterator[float]:
    """Seconds a step and seed, of `steps` steps of all of them; the first value is warm-up."""
    from moonbed.experiments.together import advance
    from moonbed.experiments.train import State

    made = [experiment_of(preset, **changes, **{"training.steps": steps, "training.seed": s}) for s in range(seeds)]
    trainings = [e.training for e in made]
    while True:
        states = [State(t) for t in trainings]
        started = time.perf_counter()
        for some in [slice(None)] if stacked else [slice(k, k + 1) for k in range(seeds)]:
            for _ in advance(trainings[some], states[some]):
                pass
        yield (time.perf_counter() - started) / steps / seeds


def moonbed_seeds(preset: str, seeds: int, device: str = "cpu", **changes: Any) -> Iterator[float]:
    """Seconds of `run` with one job over so many seeds, into an empty store."""
    from moonbed.experiments.run import run

    for k in count():
        changes |= {"sampler.steps": 2, "n": 10}
        some = [experiment_of(preset, **changes, **{"training.seed": 100 * k + seed}) for seed in range(seeds)]
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            run(some, metrics=(), store=folder, device=device, doubt=False)
            yield time.perf_counter() - started


TRAINING = (moonbed_training, moonbed_whole, plain_training, jax_training, products, moonbed_together, moonbed_seeds)
SAMPLING = (moonbed_sampling, plain_sampling, forwards)
EVALUATION = (moonbed_values, moonbed_floors, moonbed_quality, plain_values)
PARTS = {part.__name__: part for part in (*TRAINING, *SAMPLING, *EVALUATION)}

if __name__ == "__main__":
    serve(PARTS, *sys.argv[2:4])
