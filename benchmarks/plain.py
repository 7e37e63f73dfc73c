"""The reference of all speed ratios: the published ablation in plain form, as one writes it from its description.

    python benchmarks/plain.py [--row residual] [--steps 40000] [--sampling 1000] [--n 5000]

trains, samples and evaluates one row. scikit-learn's moons, a torch `DataLoader`, diffusers' schedulers, embeddings and
`EMAModel`, full kernel matrices, scikit-learn's cross-validation; nothing here imports moonbed, and nothing is slower
than it has to be in that form. tests/test_benchmarks.py holds networks and metrics against Moonbed's own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.training_utils import EMAModel
from scipy.spatial.distance import cdist
from sklearn.datasets import make_moons
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import RepeatedStratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass(frozen=True)
class Row:
    """What a row of the ablation changes."""

    network: str = "mlp"
    betas: str = "linear"
    ema: bool = True
    snr: bool = False
    euler: bool = False


COSINE = "squaredcos_cap_v2"
ROWS = {
    "baseline": Row(ema=False, euler=True),
    "ddpm": Row(ema=False),
    "ema": Row(),
    "cosine": Row(betas=COSINE),
    "larger-mlp": Row("larger", COSINE),
    "snr": Row("larger", COSINE, ema=False, snr=True),
    "snr-ema": Row("larger", COSINE, snr=True),
    "residual": Row("residual", COSINE),
}


# Networks


def zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sinusoids = Timesteps(64, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.mlp = TimestepEmbedding(64, 64)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.sinusoids(999 * t))


class MLP(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = Embedding()
        layers: list[nn.Module] = [nn.Linear(66, 128), nn.SiLU()]
        for _ in range(hidden - 1):
            layers += [nn.Linear(128, 128), nn.SiLU()]
        self.layers = nn.Sequential(*layers, zero(nn.Linear(128, 2)))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x, self.embedding(t).expand(len(x), -1)], dim=-1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.time, self.linear1 = nn.LayerNorm(128), nn.Linear(64, 128), nn.Linear(128, 128)
        self.dropout = nn.Dropout(0.0)
        self.norm2, self.linear2, self.act = nn.LayerNorm(128), zero(nn.Linear(128, 128)), nn.SiLU()

    def forward(self, h: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        inner = self.dropout(self.linear1(self.act(self.norm1(h) + self.time(emb))))
        return h + self.linear2(self.act(self.norm2(inner)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.stem = nn.Linear(2, 128)
        self.blocks = nn.ModuleList([Block() for _ in range(3)])
        self.head = nn.Sequential(nn.LayerNorm(128), nn.SiLU(), zero(nn.Linear(128, 2)))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        emb, h = self.embedding(t), self.stem(x)
        for block in self.blocks:
            h = block(h, emb)
        return self.head(h)


def network(name: str) -> nn.Module:
    return Residual() if name == "residual" else MLP({"mlp": 2, "larger": 3}[name])


# Training and sampling


def moons(n: int, random_state: int = 42) -> np.ndarray:
    return StandardScaler().fit_transform(make_moons(n, noise=0.05, random_state=random_state)[0])


class Run:
    """One row: `train` yields the loss of each step, `sample` the points after each."""

    def __init__(self, name: str, seed: int = 0, batch: int = 512) -> None:
        torch.manual_seed(seed)
        self.row = ROWS[name]
        data = TensorDataset(torch.from_numpy(moons(50_000)).float())
        self.loader = DataLoader(data, batch_size=batch, shuffle=True, drop_last=True)
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule=self.row.betas, clip_sample=False)
        self.model = network(self.row.network)
        self.ema = EMAModel(self.model.parameters(), decay=0.999) if self.row.ema else None

    def train(self) -> Iterator[float]:
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        alphas_cumprod = self.scheduler.alphas_cumprod
        self.model.train()
        while True:
            for (x0,) in self.loader:
                noise = torch.randn_like(x0)
                t = torch.randint(0, 1000, (len(x0),))
                predicted = self.model(self.scheduler.add_noise(x0, noise, t), t / 999)
                if self.row.snr:
                    snr = alphas_cumprod[t] / (1 - alphas_cumprod[t])
                    loss = ((predicted - noise).square().mean(1) / (snr + 1)).mean()
                else:
                    loss = nn.functional.mse_loss(predicted, noise)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                if self.ema:
                    self.ema.step(self.model.parameters())
                yield loss.item()

    @torch.no_grad()
    def sample(self, n: int, steps: int) -> Iterator[torch.Tensor]:
        if self.ema:
            self.ema.copy_to(self.model.parameters())
        self.model.eval()
        scheduler = EulerDiscreteScheduler() if self.row.euler else self.scheduler
        scheduler.set_timesteps(steps)
        x = torch.randn(n, 2) * scheduler.init_noise_sigma
        for k in scheduler.timesteps:
            eps = self.model(scheduler.scale_model_input(x, k), k.float().reshape(1) / 999)
            x = scheduler.step(eps, k, x).prev_sample
            yield x


# Metrics


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    """sqrt(max(0, .)) of the unbiased MMD², mean over five bandwidths around the median's."""
    z = np.vstack([x, y])
    squared = euclidean_distances(z, squared=True)
    sigma2 = np.median(squared[np.triu_indices(len(z), 1)]) / 2
    n, m, values = len(x), len(y), []
    for multiple in (0.25, 0.5, 1.0, 2.0, 4.0):
        k = np.exp(-multiple / sigma2 * squared)
        xx, yy, xy = k[:n, :n], k[n:, n:], k[:n, n:]
        within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
        values.append(within - 2 * xy.mean())
    return float(np.sqrt(max(0.0, np.mean(values))))


def energy(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(max(0.0, 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean())))


def sliced_w1(x: np.ndarray, y: np.ndarray, directions: int = 256, seed: int = 0) -> float:
    """For as many samples as reference points."""
    u = np.random.default_rng(seed).normal(size=(x.shape[1], directions))
    u /= np.linalg.norm(u, axis=0)
    return float(np.abs(np.sort(x @ u, axis=0) - np.sort(y @ u, axis=0)).mean())


def c2st(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(mean 2|AUC - 1/2|, mean accuracy) over five folds, three times."""
    label = np.repeat([0, 1], [len(y), len(x)])
    machine = make_pipeline(StandardScaler(), SVC(C=1.0, gamma="scale"))
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=3, random_state=42)
    scores = cross_validate(machine, np.vstack([y, x]), label, cv=folds, scoring=["roc_auc", "accuracy"])
    return float(np.mean(2 * np.abs(scores["test_roc_auc"] - 0.5))), float(np.mean(scores["test_accuracy"]))


def evaluate(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    auc, accuracy = c2st(x, y)
    values = {"MMD": mmd(x, y), "energy": energy(x, y), "sliced W1": sliced_w1(x, y)}
    return values | {"C2ST 2|AUC-.5|": auc, "C2ST accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", default="residual", choices=ROWS)
    parser.add_argument("--steps", type=int, default=40_000, help="of training")
    parser.add_argument("--sampling", type=int, default=1_000, help="steps of the sampler")
    parser.add_argument("--n", type=int, default=5_000, help="samples")
    given = parser.parse_args()
    clock, run = time.monotonic(), Run(given.row)
    for step, loss in enumerate(run.train(), 1):
        if step % 1000 == 0 or step == given.steps:
            print(f"step {step}: loss {loss:.4f}, {time.monotonic() - clock:.0f} s")
        if step == given.steps:
            break
    *_, x = run.sample(given.n, given.sampling)
    print(f"sampled, {time.monotonic() - clock:.0f} s")
    print({name: round(value, 6) for name, value in evaluate(x.double().numpy(), moons(given.n)).items()})
    print(f"evaluated, {time.monotonic() - clock:.0f} s in all")


if __name__ == "__main__":
    main()
