"""The page as a user gets it: written by the commands, opened from disk in Chromium, at three widths and in two themes.

Screenshots are left in `build/screenshots`, or where `MOONBED_SCREENSHOTS` says.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from browser import watched

IDEA = """
import moonbed
from moonbed.diffusion.samplers import SteppingSampler


class Halfway(SteppingSampler):
    \"\"\"The midpoint method, by a stranger.\"\"\"

    def step(self, denoiser, x, t, u, stream):
        middle = x + float(u - t) / 2 * denoiser.velocity(x, t)
        return x + float(u - t) * denoiser.velocity(middle, (t + u) / 2)


small = {"training.steps": 200, "training.batch": 128, "training.points": 2000, "n": 300}
base = moonbed.PRESETS["fast"].replace(**small, sampler="DDIM", **{"sampler.steps": 8})
experiments = {"DDIM": base, "mine<b>": base.replace(sampler=Halfway(steps=4))}
"""
BOTH = """
import json, sys
from moonbed.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        assert not end.code, words
"""
pytestmark = pytest.mark.slow
QUICK = ["--metrics", "SlicedW1,Energy", "--draws", "3", "--jobs", "1", "--quiet"]
WIDTHS = {"phone": 360, "tablet": 800, "wide": 1440}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The pages of `run` and of `compare`."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "whole_idea.py").write_text(IDEA)
    arms = ["whole_idea.py:DDIM", "whole_idea.py:mine<b>", "--seeds", "2"]
    calls = [
        ["run", "whole_idea.py", *QUICK, "--report", "run.html"],
        ["compare", *arms, *QUICK, "--report", "compare.html"],
    ]
    done = subprocess.run([sys.executable, "-c", BOTH, json.dumps(calls)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def shots():
    folder = Path(os.environ.get("MOONBED_SCREENSHOTS", "build/screenshots")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


LOOKS = [
    (name, width, "dark" if (k + shift) % 2 else "light")
    for shift, name in enumerate(["run", "compare"])
    for k, width in enumerate(WIDTHS)
]
"""Every page at every width, and both of these in both themes."""


@pytest.mark.parametrize(("name", "width", "theme"), LOOKS)
def test_it_opens_from_disk_and_fits(browser, written, shots, name, width, theme):
    looks = {"viewport": {"width": WIDTHS[width], "height": 900}, "color_scheme": theme, "reduced_motion": "reduce"}
    with watched(browser, **looks) as page:
        page.goto((written / f"{name}.html").as_uri())
        page.evaluate("window.moonbed.ready")
        page.wait_for_function("document.querySelector('canvas.sky').width > 0")
        page.wait_for_timeout(400)
        page.screenshot(path=shots / f"{name}-{width}-{theme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
        bright = page.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(",")
        assert (sum(map(int, bright)) > 380) == (theme == "light")


def test_a_strangers_sampler_is_live_and_its_name_is_text(browser, written):
    with watched(browser, reduced_motion="reduce") as page:
        page.goto((written / "run.html").as_uri())
        page.evaluate("window.moonbed.ready")
        models = page.evaluate("window.moonbed.live.models.map((m) => [m.name, m.kind, m.own])")
        assert ["mine<b>", "learned", True] in models
        assert "exact" in [kind for _, kind, _ in models]
        page.evaluate("window.moonbed.set({ model: 'mine<b>', steps: 4 })")
        assert page.evaluate("document.querySelectorAll('b:not([class])').length") == 0
        assert "Halfway" in page.locator("#live").inner_text()


def test_numbers_and_figures_stand_without_script(browser, written):
    with watched(browser, java_script_enabled=False) as page:
        page.goto((written / "compare.html").as_uri())
        text = page.locator("main").inner_text()
        assert "sliced W1" in text
        assert "floor" in text
        assert page.locator("main svg").count() > 3


def test_sizes(written):
    """The budget is 3 MB for eight rows, with 420,000 weights between them."""
    assert (written / "run.html").stat().st_size < 700_000
