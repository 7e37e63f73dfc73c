"""Named streams: independent, reproducible, and the only thing that draws."""

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from moonbed.rng import Rng, Stream


def test_a_stream_depends_on_seed_and_name_alone():
    one = Rng(3)
    one.stream("metric").normal((1000,))  # another draw, another metric, another order
    late = one.stream("train", 17).normal((5,))
    assert torch.equal(late, Rng(3).stream("train", 17).normal((5,)))
    others = [Rng(4).stream("train", 17), Rng(3).stream("train", 18), Rng(3).stream("train"), Rng(3).stream("train17")]
    for a, b in itertools.combinations([late, *(s.normal((5,)) for s in others)], 2):
        assert not torch.equal(a, b)


def test_a_stream_is_the_same_in_another_process():
    code = "from moonbed.rng import Rng; print(Rng(3).stream('train', 17).normal((4,)).tolist())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(Rng(3).stream("train", 17).normal((4,)).tolist())


def test_draws_go_on_and_a_new_stream_begins_again():
    stream = Rng(0).stream("a")
    first, second = stream.normal((4,)), stream.normal((4,))
    assert not torch.equal(first, second)
    assert torch.equal(Rng(0).stream("a").normal((8,))[:4], first)


def test_children_are_subtrees():
    root = Rng(0)
    assert root.child("a", 1).stream("b").seed == root.child("a").stream(1, "b").seed == root.stream("a", 1, "b").seed
    seeds = [root.stream("b").seed, root.child("a").stream("b").seed, root.child("c").stream("b").seed]
    assert len(set(seeds)) == 3
    assert root.child("ab").stream("c").seed != root.child("a").stream("bc").seed


def test_all_64_bits_of_the_seed_count():
    """torch's own `manual_seed` looks at 32: of 100,000 streams about one pair would be the same."""
    assert torch.equal(*(torch.randn(3, generator=torch.Generator().manual_seed(5 + k * 2**32)) for k in (0, 1)))
    assert not torch.equal(Stream(5).normal((3,)), Stream(5 + 2**32).normal((3,)))


def test_the_state_is_set_where_torch_keeps_it():
    """Our words in NumPy's Mersenne Twister give torch's numbers."""
    words = np.frombuffer(hashlib.shake_256((7).to_bytes(8, "little")).digest(4 * 624), dtype="<u4")
    twister = np.random.RandomState()
    twister.set_state(("MT19937", words, 624))
    raw = twister._bit_generator.random_raw(2000)
    assert np.array_equal(Stream(7).integers(2**16, (2000,)).numpy(), raw % 2**16)


def test_neighbouring_streams_are_uncorrelated():
    x = torch.stack([Rng(seed).stream("step", k).normal((4000,)) for seed in (0, 1) for k in range(20)])
    correlation = torch.corrcoef(x) - torch.eye(len(x))
    assert correlation.abs().max() < 5 / 4000**0.5
    assert abs(float(correlation.sum()) / len(x)) < 4 / 4000**0.5
    assert abs(float(x.mean())) < 4 / x.numel() ** 0.5
    assert abs(float(x.var()) - 1) < 4 * (2 / x.numel()) ** 0.5


def test_first_draws_over_many_streams_are_uniform():
    u = torch.cat([Rng(0).stream("step", k).uniform((2,)) for k in range(4000)]).reshape(-1, 2)
    counts = torch.histc(u[:, 0], 20, 0, 1)
    assert float(((counts - 200) ** 2 / 200).sum()) < 43.8  # chi-square, 19 degrees, p = .001
    assert abs(float(torch.corrcoef(u.T)[0, 1])) < 4 / 4000**0.5


def test_kinds_of_draws():
    stream = Rng(0).stream("x")
    assert stream.normal((2, 3)).dtype == torch.float32
    assert stream.normal((2, 3), torch.float64).dtype == torch.float64
    u = stream.uniform((1000,), torch.float64)
    assert u.dtype == torch.float64
    assert 0 <= u.min() < 0.02
    assert 0.98 < u.max() < 1
    k = stream.integers(3, (1000,))
    assert k.dtype == torch.int64
    assert k.unique().tolist() == [0, 1, 2]
    assert stream.permutation(10).sort().values.tolist() == list(range(10))
    assert stream.permutation(10).tolist() != list(range(10))


def test_numpy_is_seeded_by_the_stream():
    a, b, c = (Rng(0).stream(name).numpy().normal(size=4) for name in ("a", "a", "b"))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_draws_are_moved_to_the_device():
    stream = Rng(0, device="meta").child("a").stream("b")
    for draw in (stream.normal((2,)), stream.uniform((2,)), stream.integers(5, (2,)), stream.permutation(3)):
        assert draw.device.type == "meta"
    assert stream.generator.device.type == "cpu"


def test_as_global_draws_from_the_stream_and_restores():
    torch.manual_seed(11)
    wanted = torch.randn(6)
    torch.manual_seed(11)
    first = torch.randn(3)
    with Rng(0).stream("init").as_global():
        inside = torch.randn(3)
    assert torch.equal(torch.cat([first, torch.randn(3)]), wanted)
    with Rng(0).stream("init").as_global():
        assert torch.equal(torch.randn(3), inside)
    assert torch.equal(inside, Rng(0).stream("init").normal((3,)))
    with Rng(0).stream("other").as_global():
        assert not torch.equal(torch.randn(3), inside)


def test_as_global_restores_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), Rng(0).stream("x").as_global():
        {}[torch.randn(3)]
    assert torch.equal(torch.get_rng_state(), before)
