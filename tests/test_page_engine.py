"""The engine of the page in a real browser: each module by its tests in tests/page, numbers from Python beside it."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from browser import engine_in

from moonbed.report.page import bundle as pages
from moonbed.report.page.bundle import ENGINE_FILES, bundle
from moonbed.targets.boxes import BoxMixture, Checkerboard
from moonbed.targets.mixtures import EightGaussians, FractalTree, GaussianGrid

HERE = Path(__file__).parent / "page"
PACKAGE = Path(pages.__file__).parent
LEVELS = [(1.0, 0.5), (0.8, 0.6), (0.1, 0.995), (1.0, 0.01), (1.0, 60.0)]


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Blob:
    """Arrays of a document in one run of bytes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, array) -> dict:
        array = np.ascontiguousarray(array, dtype="<f8")
        offset = len(self.data)
        self.data += array.tobytes()
        return {"dtype": "f8", "shape": list(array.shape), "offset": offset}


def described(name, target) -> dict:
    """A law as the page has it, with Python's answers at points near and far."""
    blob, law, mixture = Blob(), {"dim": target.dim}, target.mixture
    law["log_weights"] = blob.add(mixture.weights.log())
    if isinstance(mixture, BoxMixture):
        law |= {"kind": "boxes", "low": blob.add(mixture.low), "width": blob.add(mixture.high - mixture.low)}
    else:
        law |= {"kind": "mixture", "centres": blob.add(mixture.centres)}
        law["variances"] = blob.add(torch.atleast_2d(mixture.std**2))
    generator = torch.Generator().manual_seed(1)
    cases = []
    for alpha, sigma in LEVELS:
        spread = torch.linspace(0.1, 3, 40, dtype=torch.float64)[:, None]
        x = (
            spread
            * torch.randn((40, target.dim), generator=generator, dtype=torch.float64)
            * (alpha**2 + sigma**2) ** 0.5
        )
        answers = {"denoise": target.denoise(x, alpha, sigma), "logDensity": target.log_prob(x, alpha, sigma)}
        cases.append({"alpha": alpha, "sigma": sigma, "points": x.flatten().tolist()})
        cases[-1] |= {key: value.flatten().tolist() for key, value in answers.items()}
    return {"name": name, "law": law, "blob": text(bytes(blob.data)), "cases": cases}


def laws() -> list[dict]:
    targets = [EightGaussians(), GaussianGrid(side=3), FractalTree(depth=2), Checkerboard()]
    return [described(type(target).__name__, target) for target in targets]


def special() -> list[dict]:
    x = np.concatenate([np.linspace(-6, 30, 145), [0.0, 1e-9, -1e-9, 0.7, 0.71, 100.0, 1e5]])
    values = {"x": x, "erfcx": scipy.special.erfcx(x), "erf": scipy.special.erf(x)}
    return [dict(zip(values, row, strict=True)) for row in zip(*(v.tolist() for v in values.values()), strict=True)]


GIVEN = {
    "laws.test.js": lambda: {"laws": laws(), "special": special()},
    "worker.test.js": lambda: {"source": bundle(ENGINE_FILES)},
}


@pytest.mark.parametrize("name", sorted(path.name for path in HERE.glob("*.test.js")))
def test_module(name, page):
    engine_in(page, GIVEN.get(name, dict)())
    for common in ("harness.js", "document.js"):
        page.add_script_tag(content=(HERE / common).read_text("utf-8"))
    page.add_script_tag(content=f"(() => {{ {(HERE / name).read_text('utf-8')} }})()")
    results = page.evaluate("runTests()")
    assert results
    troubles = [f"{test}: {trouble}" for test, trouble in results if trouble]
    assert not troubles, "\n".join(troubles)


def test_whatever_an_address_says_the_page_offers_it(page):
    """A small dose of `fuzz/hashes.py`; and a reader that believes an address is found out."""
    reader, fuzz = bundle(("menu.js", "state.js")), (HERE.parents[1] / "fuzz" / "hashes.js").read_text("utf-8")
    found = page.evaluate(f"() => {{ {reader}\n{fuzz}\nreturn fuzzHashes(7, 3000); }}")
    assert found == {"inputs": 3000, "troubles": []}
    credulous = reader.replace("COUNTS.includes(value)", "true")
    assert credulous != reader
    assert page.evaluate(f"() => {{ {credulous}\n{fuzz}\nreturn fuzzHashes(7, 3000); }}")["troubles"]


def test_names_at_the_top_are_unique():
    names = re.findall(r"^(?:async )?(?:function\*?|const|let|class) (\w+)", bundle(ENGINE_FILES), re.MULTILINE)
    assert len(names) > 30
    assert len(names) == len(set(names))


def test_the_bundle_is_one_strict_script():
    script = bundle(ENGINE_FILES)
    assert script.startswith('"use strict";')
    assert not re.search(r"^(?:import|export)\b", script, re.MULTILINE)


def test_the_kernel_is_that_of_its_source(tmp_path):
    """Byte by byte under the compiler it was built with, of the same size under another."""
    if not (shutil.which("clang") and shutil.which("wasm-ld")):
        pytest.skip("no clang with wasm-ld")
    source = (PACKAGE / "kernel.c").read_text("utf-8")
    command = re.search(r" \*   (clang (?:.*\\\n \* +)?.*)", source)[1].replace("\\\n *", " ")
    shutil.copy(PACKAGE / "kernel.c", tmp_path)
    subprocess.run(command.split(), cwd=tmp_path, check=True)
    built = (tmp_path / "kernel.wasm").read_bytes()
    if "version 14.0.6" in subprocess.run(["clang", "--version"], capture_output=True, text=True).stdout:
        assert built == pages.kernel()
    else:
        assert abs(len(built) - len(pages.kernel())) < 0.5 * len(pages.kernel())
