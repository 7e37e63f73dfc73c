"""Particles on their way from noise to data, over the exact density that they should follow, as GIF or WebP.

The camera follows: it shows the particles' own extent at first and that of the data at the end. The density is the
target's, drawn where it is; the particles are those of a run's own sampler.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.report.figures.samples import Limits, limits
from moonbed.report.figures.style import GENERATED, TARGET, WIDTH, linear, new, styled

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from PIL.Image import Image
else:
    np = lazy_import("numpy")

__all__ = ["KINDS", "encode", "frames"]

KINDS = ("gif", "webp")
FRAMES = 48
SECONDS = 4.0
HOLD = 1_200
"""Milliseconds that the samples stand at the end."""
DPI = 110


def chosen(count: int) -> list[int]:
    """Which of so many states are frames: the first, the last, and others evenly between them."""
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, FRAMES)).tolist()})


def frames(
    states: Sequence[np.ndarray], target: np.ndarray, density: np.ndarray | None, title: str, width: float = WIDTH
) -> Iterator[Image]:
    """Yield a picture for each state that is a frame. Points are (n, 2); `density` is exact, (k, k) over `limits`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    within = limits(target)
    figure = _stage(within, density, title, width)
    canvas, axes = FigureCanvasAgg(figure), figure.axes[0]
    dots, text = axes.collections[-1], axes.texts[0]
    for k in chosen(len(states)):
        points = states[k][:, :2]
        zoom = _zoom(points, within)
        (left, right), (bottom, top) = within
        x, y, a, b = (left + right) / 2, (bottom + top) / 2, (right - left) / 2 * zoom, (top - bottom) / 2 * zoom
        axes.set(xlim=(x - a, x + a), ylim=(y - b, y + b))
        dots.set_offsets(points)
        text.set_text("noise" if k == 0 else f"step {k} of {len(states) - 1}")
        canvas.draw()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba()).copy()).convert("RGB")


def _zoom(points: np.ndarray, within: Limits) -> float:
    """How much wider than for the data the view must be for 99 % of the particles."""
    half = [(high - low) / 2 for low, high in within]
    middle = [(high + low) / 2 for low, high in within]
    finite = points[np.isfinite(points).all(1)]
    if not len(finite):
        return 1.0
    reach = np.quantile(np.abs(finite - middle), 0.99, axis=0) / half
    return float(max(1.0, 1.05 * reach.max()))


@styled
def _stage(within: Limits, density: np.ndarray | None, title: str, width: float) -> Figure:
    (left, right), (bottom, top) = within
    figure = new(width, 0.55 + (width - 0.5) * min(1.3, (top - bottom) / (right - left)))
    figure.set_facecolor("white")
    axes = figure.subplots()
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    if density is not None:
        from matplotlib.colors import LinearSegmentedColormap

        axes.imshow(
            density, extent=(left, right, bottom, top), origin="lower", vmin=0, vmax=1.3 * density.max(),
            cmap=LinearSegmentedColormap.from_list("density", ["white", TARGET]), interpolation="bilinear", zorder=0,
        )  # fmt: skip
    axes.scatter([], [], s=4.0, alpha=0.75, linewidths=0, color=GENERATED)
    axes.text(0.02, 0.98, "", transform=axes.transAxes, va="top", fontsize=7)
    axes.set_title(title, loc="left")
    linear(axes, "x", 4)
    linear(axes, "y", 4)
    return figure


def _palette() -> Image:
    """What frames are made of: ink on paper, and particles at any opacity on any density."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    target, generated = np.array(to_rgb(TARGET)), np.array(to_rgb(GENERATED))
    density, dots = np.meshgrid(np.linspace(0, 1, 12), np.linspace(0, 1, 9))
    ground = 1 + density[..., None] * (target - 1)
    mixed = (ground + dots[..., None] * (generated - ground)).reshape(-1, 3)
    greys = np.linspace(0, 1, 20)[:, None].repeat(3, axis=1)
    colours = np.round(255 * np.concatenate([mixed, greys])).astype(np.uint8)
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.ravel().tobytes())
    return palette


def encode(pictures: Sequence[Image], kind: str) -> bytes:
    """The pictures as one file that plays again and again, and holds the last of them."""
    from PIL.Image import Dither

    data = io.BytesIO()
    each = int(max(40.0, min(600.0, 1000 * SECONDS / len(pictures))))
    options: dict[str, Any] = {"save_all": True, "duration": [*[each] * (len(pictures) - 1), HOLD], "loop": 0}
    if kind == "gif":
        palette = _palette()
        shown = [picture.quantize(palette=palette, dither=Dither.NONE) for picture in pictures]
        shown[0].save(data, "GIF", append_images=shown[1:], optimize=True, disposal=1, **options)
    else:
        pictures[0].save(data, "WEBP", append_images=pictures[1:], quality=70, method=3, **options)
    return data.getvalue()
