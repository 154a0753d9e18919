"""The page in Chromium: it sorts, asks for nothing, runs no text, and both schemes are legible."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dlm_eval.report import Metric, Results, draw, write_folder

pytestmark = pytest.mark.browser
EVIL = "<script>document.title = 'owned'</script><img src='http://x.example/a.png'>"
FIGURES = (
    ("llada, 8 steps", 90.5, 4.1),
    ("llada, 16 steps", 9.25, 2.0),
    ("klass, 100 steps", 700.0, 4.9),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium of the system, or the one that `playwright install chromium` brought."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    own = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as playwright:
        if own is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("needs Chromium: apt install chromium, or playwright install chromium")
        started = playwright.chromium.launch(executable_path=own, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    metrics = [
        Metric(name=name, value=value, unit=unit, n=4, group=group, better=better)
        for group, perplexity, entropy in FIGURES
        for name, value, unit, better in (
            ("generative perplexity", perplexity, "", "smaller"),
            ("unigram entropy", entropy, "nats", None),
        )
    ]
    results = Results(
        command="dlm-sampling eval compare tiny-books",
        subject={"model": "tiny-books"},
        protocol={"judge": "3-gram"},
        metrics=tuple(metrics),
        warnings=(f"Warned {EVIL}",),
    )
    samples = [{"group": group, "row": 0, "text": EVIL} for group, _, _ in FIGURES]

    def paint(figure: Any) -> None:
        figure.add_subplot().plot([1, 2], [3, 4])

    folder = tmp_path_factory.mktemp("report")
    return write_folder(folder, results, samples, plots=[draw("A plot", "Of it.", paint)])


def opened(browser: Any, report: Path, scheme: str) -> tuple[Any, list[str], list[str]]:
    """The page, the addresses that it asked for, and its messages."""
    page = browser.new_page(color_scheme=scheme)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((report / "report.html").as_uri())
    return page, asked, said


def first_column(page: Any) -> list[str]:
    return page.locator("table.figures tbody th").all_inner_texts()


def test_a_click_on_a_head_sorts_by_it(browser: Any, report: Path) -> None:
    page, _, said = opened(browser, report, "light")
    assert first_column(page) == [group for group, _, _ in FIGURES]
    perplexity = page.get_by_role("button", name="generative perplexity")
    rising = ["llada, 16 steps", "llada, 8 steps", "klass, 100 steps"]
    perplexity.click()
    assert first_column(page) == rising
    perplexity.click()
    assert first_column(page) == rising[::-1]
    page.get_by_role("button", name="of", exact=True).click()  # numbers inside words count
    assert first_column(page) == ["klass, 100 steps", "llada, 8 steps", "llada, 16 steps"]
    sorts = [th.get_attribute("aria-sort") for th in page.locator("table.figures thead th").all()]
    assert sorts == ["ascending", "none", "none", "none"]
    assert said == []


def test_nothing_is_asked_for_and_no_text_runs(browser: Any, report: Path) -> None:
    page, asked, said = opened(browser, report, "light")
    assert [url for url in asked if not url.startswith("data:")] == [
        (report / "report.html").as_uri()
    ]
    assert page.title() == "compare: tiny-books"
    assert said == []  # a script that the policy stopped would be reported
    assert page.locator(".texts .text").all_inner_texts() == [EVIL] * len(FIGURES)
    # The policy holds even if markup came in.
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=https://x.example/b>')")
    page.wait_for_function("document.images[document.images.length - 1].complete")
    assert any("Content Security Policy" in message for message in said)


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" as WCAG 2.2 defines it."""
    parts = [int(part) / 255 for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_are_legible(browser: Any, report: Path, scheme: str) -> None:
    """Contrast 7 for text (WCAG AAA), 4.5 for what is faint; the plot has the same scheme."""
    page, _, _ = opened(browser, report, scheme)
    style = "e => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor]"
    for selector, least in (("body", 7.0), (".legend", 4.5), (".facts, figcaption", 4.5)):
        ink, ground = map(luminance, page.locator(selector).first.evaluate(style))
        dark, light = sorted((ink, ground))
        assert (light + 0.05) / (dark + 0.05) >= least, selector
        assert (ground > ink) == (scheme == "light")
    shown = page.locator("figure img").evaluate("e => e.currentSrc")
    source = page.locator("figure source").get_attribute("srcset")
    assert (shown == source) == (scheme == "dark")
    assert page.locator("figure img").evaluate("e => e.naturalWidth") > 100


def test_a_narrow_window_scrolls_tables_not_the_page(browser: Any, report: Path) -> None:
    page, _, _ = opened(browser, report, "light")
    page.set_viewport_size({"width": 400, "height": 800})
    width = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(width)
