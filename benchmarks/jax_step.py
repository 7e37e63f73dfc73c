"""The same training step in JAX: a jitted `lax.scan` over 100 steps, float32, on one thread of one core.

    pip install -e '.[bench]'
    python benchmarks/jax_step.py [--network residual] [--repeats 10]

Networks, loss, AdamW, clipping and EMA are those of benchmarks/plain.py; batches, times and noise of the 100 steps are
drawn by jax.random inside of the compiled function. Compilation is reported apart. XLA's own thread pool is larger than
`intra_op_parallelism_threads` says, so the process is held to one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

FOUND = all(importlib.util.find_spec(name) for name in ("jax", "optax"))
BLOCK, BATCH = 100, 512
HIDDEN = {"mlp": 2, "larger": 3, "residual": 0}


def one_core() -> None:
    """Before jax is imported."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def parameters(network: str, seed: int = 0) -> dict[str, Any]:
    """Weights by name as torch draws them, `w` (in, out) and `b`; layer norms `g` and `b`."""
    import jax
    import jax.numpy as jnp

    keys = iter(jax.random.split(jax.random.key(seed), 64))

    def linear(a: int, b: int, scale: float = 1.0) -> dict[str, Any]:
        draw = [jax.random.uniform(next(keys), shape, minval=-1, maxval=1) for shape in ((a, b), (b,))]
        return {name: scale * a**-0.5 * value for name, value in zip("wb", draw, strict=True)}

    def norm() -> dict[str, Any]:
        return {"g": jnp.ones(128), "b": jnp.zeros(128)}

    out: dict[str, Any] = {"time1": linear(64, 64), "time2": linear(64, 64), "head": linear(128, 2, 0.0)}
    if network != "residual":
        widths = [66] + [128] * HIDDEN[network]
        return out | {"hidden": [linear(a, b) for a, b in pairwise(widths)]}
    block = {"norm1": norm, "time": lambda: linear(64, 128), "linear1": lambda: linear(128, 128)}
    block |= {"norm2": norm, "linear2": lambda: linear(128, 128, 0.0)}
    return out | {
        "stem": linear(2, 128),
        "blocks": [{k: make() for k, make in block.items()} for _ in range(3)],
        "norm": norm(),
    }


def forward(p: dict[str, Any], x: Any, t: Any) -> Any:
    """F(x, t) of either network; t (n,) in [0, 1]."""
    import jax
    import jax.numpy as jnp

    def linear(p: dict[str, Any], x: Any) -> Any:
        return x @ p["w"] + p["b"]

    def norm(p: dict[str, Any], x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["g"] + p["b"]

    silu = jax.nn.silu
    angle = 999 * t[:, None] * jnp.exp(-jnp.log(10_000.0) * jnp.arange(32) / 32)
    emb = linear(p["time2"], silu(linear(p["time1"], jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], 1))))
    if "hidden" in p:
        h = jnp.concatenate([x, emb], 1)
        for layer in p["hidden"]:
            h = silu(linear(layer, h))
        return linear(p["head"], h)
    h = linear(p["stem"], x)
    for b in p["blocks"]:
        inner = linear(b["linear1"], silu(norm(b["norm1"], h) + linear(b["time"], emb)))
        h = h + linear(b["linear2"], silu(norm(b["norm2"], inner)))
    return linear(p["head"], silu(norm(p["norm"], h)))


def compiled(data: Any, alphas_cumprod: Any) -> tuple[Any, Any]:
    """(optimiser, jitted function: state -> state and the losses of 100 steps)."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=0.01))

    def loss(p: dict[str, Any], x0: Any, t: Any, eps: Any) -> Any:
        kept = alphas_cumprod[t][:, None]
        return ((forward(p, jnp.sqrt(kept) * x0 + jnp.sqrt(1 - kept) * eps, t / 999) - eps) ** 2).mean()

    def step(state: Any, drawn: Any) -> tuple[Any, Any]:
        p, slots, average, count = state
        rows, t, eps = drawn
        value, gradient = jax.value_and_grad(loss)(p, data[rows], t, eps)
        changes, slots = optimizer.update(gradient, slots, p)
        p = optax.apply_updates(p, changes)
        decay = jnp.minimum(0.999, (1 + count) / (10 + count))
        return (p, slots, jax.tree.map(lambda a, w: a + (1 - decay) * (w - a), average, p), count + 1), value

    @jax.jit
    def block(state: Any, key: Any) -> tuple[Any, Any]:
        rows, times, noise = jax.random.split(key, 3)
        drawn = (
            jax.random.randint(rows, (BLOCK, BATCH), 0, len(data)),
            jax.random.randint(times, (BLOCK, BATCH), 0, 1000),
            jax.random.normal(noise, (BLOCK, BATCH, 2)),
        )
        return jax.lax.scan(step, state, drawn)

    return optimizer, block


def run(network: str, data: Any, alphas_cumprod: Any) -> Iterator[Any]:
    """The losses of each hundred steps, forever."""
    import jax
    import jax.numpy as jnp

    optimizer, block = compiled(jnp.asarray(data, jnp.float32), jnp.asarray(alphas_cumprod, jnp.float32))
    p = parameters(network)
    state = (p, optimizer.init(p), p, 0)
    for k in range(10**9):
        state, losses = block(state, jax.random.key(k))
        yield losses.block_until_ready()


def training(network: str, steps: int = BLOCK) -> Iterator[float]:
    """Seconds of the first hundred steps with compilation, then seconds a step over `steps` steps."""
    one_core()
    import plain
    from diffusers import DDPMScheduler

    betas = plain.ROWS["residual" if network == "residual" else "ema"].betas
    blocks = run(network, plain.moons(50_000), DDPMScheduler(beta_schedule=betas).alphas_cumprod.numpy())
    started = time.perf_counter()
    next(blocks)
    yield time.perf_counter() - started
    while True:
        count, started = max(1, steps // BLOCK), time.perf_counter()
        for _ in range(count):
            next(blocks)
        yield (time.perf_counter() - started) / (count * BLOCK)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="residual", choices=HIDDEN)
    parser.add_argument("--repeats", type=int, default=10, help="of a hundred steps")
    given = parser.parse_args()
    if not FOUND:
        print("jax or optax is not installed: pip install -e '.[bench]'")
        return 0
    times = training(given.network)
    print(f"first {BLOCK} steps, with compilation: {next(times):.1f} s")
    found = sorted(1e3 * next(times) for _ in range(given.repeats))
    print(f"{found[len(found) // 2]:.3f} ms a step ({found[0]:.3f} .. {found[-1]:.3f}), n = {given.repeats}, one core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
