"""The live panel in a real Chromium: a document by hand (live_sample.py), opened from disk."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from browser import watched
from live_sample import HOSTILE, document

from moonbed.report.page.build import STATIC_FILES, script_data, style
from moonbed.report.page.bundle import ENGINE_FILES, LIVE_FILES, bundle, kernel

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

SHELL = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; worker-src blob:; style-src 'unsafe-inline'; img-src data: blob:">
<title>Live</title><style>{style}</style></head><body><button type="button" id="theme" hidden>Theme</button>
<main>{section}</main>{data}<script>{script}</script></body></html>"""  # noqa: E501

DIGEST = """(which) => {
  const canvas = document.querySelectorAll("canvas.sky")[which];
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let [sum, lit] = [0, 0];
  for (let i = 3; i < data.length; i += 4) if (data[i]) { lit++; sum = (sum * 31 + i * data[i]) % 1000000007; }
  return [lit, sum];
}"""


def html(live: bool = True) -> str:
    from jinja2 import Environment, PackageLoader

    section = Environment(loader=PackageLoader("moonbed.report.page", "sections"), autoescape=True)
    data = ""
    if live:
        made, blob = document()
        parts = {
            "live": script_data(made),
            "kernel": base64.b64encode(kernel()).decode(),
            "engine": bundle(ENGINE_FILES),
            "blob": base64.b64encode(blob).decode(),
        }
        data = "".join(f'<script type="text/plain" id="moonbed-{name}">{text}</script>' for name, text in parts.items())
    return SHELL.format(
        style=style("base.css", "live.css"),
        section=section.get_template("live.html.j2").render(),
        data=data,
        script=bundle([*STATIC_FILES, *LIVE_FILES]),
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "live.html"
    path.write_text(html(), encoding="utf-8")
    return path


def open_at(page: Page, file: Path, address: str = "") -> Page:
    page.goto(f"{file.as_uri()}{address}")
    page.evaluate("moonbed.ready")
    settled(page)
    return page


def settled(page: Page) -> None:
    """All pictures and paths are there, and drawn."""
    page.wait_for_function(
        """() => { const { tracks, drawing, state } = moonbed.panel(); const both = [tracks.a, tracks.b];
        return tracks.a.picture && !drawing && both.every((t) => !t.busy && t.paths.every((p) => p.picture)); }"""
    )
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def until(page: Page, condition: str) -> None:
    """Wait for a condition; as a function, because the page's policy forbids to evaluate texts."""
    page.wait_for_function(f"() => {condition}", timeout=15000)


def state(page: Page) -> dict[str, Any]:
    return page.evaluate("moonbed.state()")


def digest(page: Page, which: int = 0) -> list[int]:
    return page.evaluate(DIGEST, which)


def choose(page: Page, key: str, value: str) -> None:
    page.select_option(f"[data-key={key}]", value)
    settled(page)


@contextmanager
def still(browser: Browser, file: Path, address: str = "", **context: Any) -> Iterator[Page]:
    """A page whose reader wants no motion."""
    with watched(browser, reduced_motion="reduce", **context) as page:
        yield open_at(page, file, address)


@pytest.fixture(scope="module")
def shared(browser: Browser, file: Path) -> Iterator[tuple[Page, dict[str, Any]]]:
    with still(browser, file) as page:
        yield page, state(page)


@pytest.fixture
def calm(shared: tuple[Page, dict[str, Any]]) -> Page:
    """One page for many tests, each of which finds it in the state in which it opened."""
    page, first = shared
    page.evaluate("(first) => { moonbed.panel().player.pause(); moonbed.set(first); }", first)
    settled(page)
    return page


def test_a_first_look_plays_once_from_noise_to_data(page: Page, file: Path) -> None:
    open_at(page, file)
    until(page, "moonbed.panel().player.playing || moonbed.panel().player.frames > 0")
    early = page.evaluate("[moonbed.state().t, moonbed.panel().player.frames]")
    page.wait_for_timeout(300)
    t, frames = page.evaluate("[moonbed.state().t, moonbed.panel().player.frames]")
    assert early[0] < t < 1
    assert frames > early[1]
    assert page.locator("#live-play").get_attribute("aria-label") == "Pause"


def test_without_motion_it_rests_at_the_sample(calm: Page) -> None:
    found = state(calm)
    assert (found["model"], found["beside"], found["t"], found["n"]) == ("blurred", "exact", 1, 1000)
    assert calm.evaluate("moonbed.panel().player.frames") == 0
    lit, _ = digest(calm)
    assert lit > 1000
    assert calm.locator("figure.stage").count() == 2


def test_scrubbing_moves_the_particles_of_both(calm: Page) -> None:
    ends = digest(calm), digest(calm, 1)
    calm.locator("#live-time").fill("0.4")
    settled(calm)
    assert state(calm)["t"] == 0.4
    assert digest(calm) != ends[0]
    assert digest(calm, 1) != ends[1]
    readings = calm.locator("figure.stage").first.locator(".stage-readings").inner_text()
    assert "13 of 32" in readings.replace("\n", " ")


def test_the_particles_are_those_of_the_engine(calm: Page) -> None:
    """The picture's last points are the engine's last state in the camera's units, which here are about its own."""
    far = calm.evaluate("""async () => {
      const { x } = await moonbed.call("sample", { model: 0, plan: "vp ddim 32", n: 1000, seed: 1, quiet: true });
      const { picture } = moonbed.panel().tracks.a;
      const { alpha, sigma } = picture.level(1);
      const u = picture.at(1);
      return Math.max(...u.map((v, i) => Math.abs(v * picture.camera.scale(alpha, sigma) - x[i])));
    }""")
    assert far < 1e-5


def test_sampler_steps_seed_and_number_change_picture_and_state(calm: Page) -> None:
    seen = [digest(calm)]
    choose(calm, "sampler", "ancestral")
    assert state(calm)["sampler"] == "ancestral"
    seen.append(digest(calm))
    choose(calm, "sampler", "DDIM")
    choose(calm, "steps", "2")
    assert (state(calm)["sampler"], state(calm)["steps"]) == ("DDIM", 2)
    assert "DDIM, 2 steps" in calm.locator(".stage-what").nth(1).inner_text()
    seen.append(digest(calm))
    calm.click("#live-redraw")
    settled(calm)
    assert state(calm)["seed"] == 2
    seen.append(digest(calm))
    choose(calm, "n", "2000")
    seen.append(digest(calm))
    assert len({tuple(d) for d in seen}) == len(seen)


def test_a_click_draws_a_path_in_both_squares(calm: Page) -> None:
    calm.locator("canvas.sky").first.click(position={"x": 60, "y": 80})
    settled(calm)
    drops = state(calm)["drops"]
    ways = calm.evaluate("""() => { const { a, b } = moonbed.panel().tracks;
      return [a, b].map((t) => t.paths.map((p) => [p.picture.points.length, [...p.picture.at(0)]])); }""")
    assert len(drops) == 1
    for [[states, start]] in ways:
        assert states == 33
        assert start == pytest.approx(drops[0], abs=1e-5)
    calm.click("#live-clear")
    settled(calm)
    assert state(calm)["drops"] == []


def test_a_drop_of_a_schedule_of_another_size_starts_where_it_was_dropped(browser: Browser, file: Path) -> None:
    with still(browser, file, "#model=exploding&drops=1.5,-1") as page:
        start = page.evaluate("[...moonbed.panel().tracks.a.paths[0].picture.at(0)]")
        end = page.evaluate("[...moonbed.panel().tracks.a.paths[0].picture.at(1)]")
    assert start == pytest.approx([1.5, -1], abs=1e-5)
    assert max(map(abs, end)) < 2.5


def test_the_keyboard_drops_plays_and_scrubs(calm: Page) -> None:
    calm.locator("canvas.sky").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Enter"):
        calm.keyboard.press(key)
    settled(calm)
    [[x, y]] = state(calm)["drops"]
    assert x == pytest.approx(2 * y, abs=0.011)
    assert y > 0
    calm.locator("#live-time").focus()
    calm.keyboard.press("ArrowLeft")
    assert state(calm)["t"] == pytest.approx(0.98)
    calm.keyboard.press(" ")
    until(calm, "moonbed.panel().player.playing")
    calm.keyboard.press(" ")
    assert not calm.evaluate("moonbed.panel().player.playing")


def test_every_control_has_a_name_and_is_reached_by_tab(calm: Page) -> None:
    nameless = calm.evaluate("""() => {
      const all = [...document.querySelectorAll("#live button, #live input, #live select, #live canvas[tabindex]")];
      const label = (e) => e.closest("label")?.innerText || e.getAttribute("aria-label") || e.textContent;
      return all.filter((e) => !label(e).trim()).map((e) => e.outerHTML);
    }""")
    assert nameless == []
    reached = set()
    for _ in range(24):
        calm.keyboard.press("Tab")
        reached.add(
            calm.evaluate(
                "document.activeElement.id || document.activeElement.dataset.key || document.activeElement.name"
            )
        )
    assert {"live-play", "live-time", "model", "beside", "sampler", "n", "seed", "live-redraw", "live-view"} <= reached


def test_the_address_holds_the_state_and_gives_it_back(browser: Browser, file: Path) -> None:
    address = "#model=steady&sampler=DDIM&steps=8&n=500&seed=7&w=3.5&view=field&show=difference"
    address += "&beside=blurred&t=0.25&drops=1,-0.5;0,2"
    with still(browser, file, address) as page:
        found = state(page)
        choose(page, "n", "250")
        until(page, "location.hash.includes('n=250')")
        told = page.evaluate("location.hash")
        page.evaluate("location.hash = '#t=0.75&view=particles'")
        until(page, "moonbed.state().t === 0.75")
        changed = state(page)
    expected = {"model": "steady", "sampler": "DDIM", "steps": 8, "n": 500, "seed": 7, "w": 3.5, "view": "field"}
    expected |= {"show": "difference", "beside": "blurred", "t": 0.25, "drops": [[1, -0.5], [0, 2]], "trails": False}
    assert found == expected
    with still(browser, file, told) as page:
        assert state(page) == expected | {"n": 250}
    assert (changed["view"], changed["n"], changed["model"]) == ("particles", 250, "steady")


@pytest.mark.parametrize(
    "address",
    [
        "#model=%3Cimg%20src%3Dx%20onerror%3Dwindow.hacked%3D1%3E&sampler=__proto__&steps=-1&n=1e9&seed=0.5&w=NaN&t=Infinity",
        "#view=constructor&show=%00&beside=%E0%A4%A&drops=1,2,3;a,b;1e9,0;;NaN,0&__proto__=1&t=&=3&toString=1",
        "#results",
    ],
    ids=["markup", "garbage", "anchor"],
)
def test_a_hostile_address_changes_nothing(browser: Browser, file: Path, address: str) -> None:
    with still(browser, file, address) as page:
        found = state(page)
        assert page.evaluate("window.hacked") is None
        assert page.locator("#live img").count() == 0
    assert (found["model"], found["sampler"], found["n"], found["seed"], found["drops"]) == (
        "blurred",
        "own",
        1000,
        1,
        [],
    )
    assert (found["view"], found["show"], found["beside"], found["w"], found["t"]) == (
        "particles",
        "both",
        "exact",
        None,
        1,
    )


def test_what_is_not_valid_leaves_the_rest_as_it_was(calm: Page) -> None:
    calm.evaluate("moonbed.set({ n: 2000, seed: 5, t: 0.5, sampler: 'ancestral', beside: 'none' })")
    calm.evaluate("moonbed.set({ n: 3, seed: -1, t: 'x', sampler: 'none', beside: 'blurred', drops: [[1]], model: 7 })")
    settled(calm)
    found = state(calm)
    assert [found[key] for key in ("n", "seed", "t", "sampler", "beside", "drops")] == [
        2000,
        5,
        0.5,
        "ancestral",
        "none",
        [],
    ]


def test_a_recorded_model_shows_its_points_and_its_reason(calm: Page) -> None:
    choose(calm, "model", HOSTILE)
    assert calm.locator(".stage-name").inner_text() == HOSTILE
    assert "<b>sort</b> has no counterpart" in calm.locator("#live-note").inner_text()
    assert calm.locator("[data-key=sampler]").is_disabled()
    assert calm.locator("[data-key=view] input[value=field]").is_disabled()
    assert digest(calm)[0] > 300
    assert calm.evaluate("window.hacked") is None
    choose(calm, "model", "exact")
    assert state(calm)["beside"] == "none"


def test_more_dimensions_show_the_first_two_and_say_so(browser: Browser, file: Path) -> None:
    with still(browser, file, "#model=deep&view=density") as page:
        assert state(page)["view"] == "particles"
        assert "first two of 3 coordinates" in page.locator("#live-note").inner_text()
        assert digest(page)[0] > 1000


def test_guidance_bends_the_particles(browser: Browser, file: Path) -> None:
    with still(browser, file, "#model=steady&beside=none") as page:
        before = digest(page)
        page.locator("[data-key=w]").fill("6")
        settled(page)
        assert state(page)["w"] == 6
        assert digest(page) != before
        assert page.locator("[data-key=w]").is_visible()


GROUND = DIGEST.replace("canvas.sky", "canvas.ground")


@pytest.mark.parametrize("view", ["field", "density"])
def test_fields_and_densities_learned_exact_and_their_difference(browser: Browser, file: Path, view: str) -> None:
    with still(browser, file, f"#view={view}&t=0.5&beside=none") as page:
        assert page.locator("figure.stage").count() == 2
        until(page, f"({GROUND})(0)[0] > 500 && ({GROUND})(1)[0] > 500")
        page.locator("[data-key=show] label", has_text="Difference").click()
        until(page, "/difference|Vermilion/.test(document.querySelector('.stage-note').textContent)")
        assert page.locator("figure.stage").count() == 1
        assert page.evaluate(GROUND, 0)[0] > 500


def test_the_error_is_drawn_with_its_band_and_its_numbers(calm: Page) -> None:
    calm.wait_for_selector("#live-error svg polyline")
    assert calm.locator("#live-error svg polygon.band").count() == 1
    assert "nats a unit of log σ" in calm.locator("#live-error figcaption").inner_text()
    assert calm.locator("#live-error tbody tr").count() == 9
    at = calm.locator("#live-error line.now").get_attribute("x1")
    calm.locator("#live-time").fill("0.3")
    settled(calm)
    assert calm.locator("#live-error line.now").get_attribute("x1") != at


def test_quality_is_measured_on_demand(browser: Browser, file: Path) -> None:
    with still(browser, file, "#n=250&beside=none") as page:
        assert page.locator("#live-quality svg").is_hidden()
        page.click("#live-measure")
        page.wait_for_selector("#live-quality circle.point", timeout=15000)
        assert page.locator("#live-quality circle.point").count() == 6
        assert page.locator("#live-quality polygon.floor").count() == 1
        assert "n = 250, 95 % intervals" in page.locator("#live-quality figcaption").inner_text()


def test_the_picture_is_told_in_words(calm: Page) -> None:
    until(
        calm, "/blurred.*at the sample.*exact.*at the sample/.test(document.getElementById('live-words').textContent)"
    )
    told = calm.locator("#live-words").text_content()
    assert "blurred, DDIM, 32 steps, 32 evaluations: 1,000 particles" in told
    assert "exact, DDIM" in told


def test_the_theme_goes_round_and_the_picture_follows(calm: Page) -> None:
    colours = []
    for _ in range(3):
        calm.click("#theme")
        settled(calm)
        colours.append(
            (calm.locator("html").get_attribute("data-theme"), calm.evaluate("moonbed.panel().colours.generated"))
        )
    assert [theme for theme, _ in colours] == ["light", "dark", None]
    assert colours[0][1] != colours[1][1]


@pytest.mark.parametrize("width", [320, 800, 1440])
def test_nothing_is_wider_than_the_screen(browser: Browser, file: Path, width: int) -> None:
    with still(browser, file, viewport={"width": width, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        tops = page.locator("figure.stage").evaluate_all("all => all.map((e) => e.getBoundingClientRect().top)")
    assert (tops[0] == tops[1]) == (width > 320)


def test_a_finger_drops_a_particle_on_a_phone(browser: Browser, file: Path) -> None:
    with still(browser, file, "#n=250", viewport={"width": 360, "height": 740}, has_touch=True) as page:
        page.locator("canvas.sky").nth(1).tap(position={"x": 90, "y": 90})
        settled(page)
        assert len(state(page)["drops"]) == 1
        assert page.locator(".by-key").is_hidden()


def test_without_workers_the_engine_runs_on_the_page(browser: Browser, file: Path) -> None:
    with watched(browser, reduced_motion="reduce") as page:
        page.add_init_script("delete window.Worker")
        open_at(page, file, "#n=250&beside=none")
        assert digest(page)[0] > 300


def test_without_models_there_is_no_panel(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "plain.html"
    path.write_text(html(live=False), encoding="utf-8")
    page.goto(path.as_uri())
    assert page.locator("#live").is_hidden()
    assert page.evaluate("window.moonbed") is None


def test_a_stale_picture_is_cancelled_and_the_last_wish_wins(calm: Page) -> None:
    calm.evaluate("for (const n of [250, 500, 2000, 5000, 1000]) moonbed.set({ n, seed: n })")
    settled(calm)
    assert calm.evaluate("[moonbed.panel().tracks.a.picture.n, moonbed.panel().tracks.a.key]") == [
        1000,
        "0 vp ddim 32  1000 1000",
    ]


@pytest.mark.slow
def test_two_thousand_particles_play_smoothly(browser: Browser, file: Path) -> None:
    """Sixty frames a second where nothing else runs; a third of it is asked, for a machine that is shared."""
    with still(browser, file, "#n=2000&t=0") as page:
        page.click("#live-play")
        frames = page.evaluate("""async () => { const { player } = moonbed.panel(); const begin = player.frames;
          await new Promise((done) => setTimeout(done, 1500)); return (player.frames - begin) / 1.5; }""")
        cost = page.evaluate("moonbed.panel().cost")
    assert frames > 20
    assert cost < 16
