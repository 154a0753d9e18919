"""The page of an evaluation: model text never becomes markup, figures have the digits they earn."""

from __future__ import annotations

import math
from html.parser import HTMLParser

import pytest
from dlm_eval.report import Metric, Results, draw
from dlm_eval.report.page import SHOWN_TEXTS, figure, render, side_by_side, table

EVIL = "</td></table><script>alert(1)</script><img src=http://x.example/a onerror=alert(2)>&lt;'\""


class Tags(HTMLParser):
    """Collects tags with their attributes, and the text outside of script and style."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def parse(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def test_text_of_a_model_never_becomes_markup() -> None:
    """Every field of every argument is hostile."""
    metric = Metric(name=EVIL, value=1.5, unit=EVIL, n=2, note=EVIL, group=EVIL)
    hostile = Results(
        command=EVIL,
        subject={EVIL: EVIL, "list": [EVIL], "model": EVIL},
        protocol={EVIL: {EVIL: EVIL}},
        metrics=(metric, Metric(name="b", value=1.0, unit="", n=2, group="other")),
        warnings=(EVIL,),
    )
    keys = ("text", "prompt", "reference", "group", "row", EVIL)
    plot = draw(EVIL, EVIL, lambda figure: None)
    for metrics in (hostile.metrics, (metric,)):
        shown = Results(**{**vars(hostile), "metrics": metrics})
        samples = [dict.fromkeys(keys, EVIL), {"text": "x", "group": "b"}]
        found = parse(render(shown, samples, versions={EVIL: EVIL}, plots=[plot]))
        names = [name for name, _ in found.tags]
        assert names.count("script") == 1 and names.count("img") == 1
        assert not any(key.startswith("on") for _, given in found.tags for key in given)
        addresses = [
            given.get(key) or ""
            for _, given in found.tags
            for key in ("src", "srcset", "href")
            if key in given
        ]
        assert all(address.startswith("data:") for address in addresses)
        assert found.words.count(EVIL) >= 14  # it is there, as text


def test_entropy_stands_directly_behind_perplexity() -> None:
    names = ("unigram entropy", "mauve", "generative perplexity", "length")
    columns, _ = table([Metric(name=name, value=1.0, unit="", n=2) for name in names])
    assert [c.name for c in columns] == [
        "mauve",
        "generative perplexity",
        "unigram entropy",
        "length",
    ]


def test_groups_are_rows_and_a_missing_figure_is_empty() -> None:
    first = Metric(name="a", value=1.0, unit="", n=2, group="x")
    second = Metric(name="b", value=2.0, unit="s", n=2, group="y", better="smaller")
    columns, rows = table([first, second])
    assert [(c.name, c.unit, c.better) for c in columns] == [("a", "", ""), ("b", "s", "smaller")]
    assert [(r.group, r.figures) for r in rows] == [("x", [first, None]), ("y", [None, second])]


def test_texts_of_one_row_stand_side_by_side() -> None:
    samples = [
        {"group": "a", "row": 3, "text": "a3", "prompt": "p"},
        {"group": "b", "row": 4, "text": "b4"},
        {"group": "b", "row": 3, "text": "b3", "reference": "r"},
        {"group": "b", "row": 5},
    ]
    groups, rows = side_by_side(samples)
    assert groups == ["a", "b"]
    assert [(r.label, r.prompt, r.reference) for r in rows] == [("3", "p", "r"), ("4", "", "")]
    assert [[s and s["text"] for s in r.samples] for r in rows] == [["a3", "b3"], [None, "b4"]]


def test_texts_of_different_prompts_do_not_stand_side_by_side() -> None:
    samples = [
        {"group": "sudoku", "row": 0, "text": "s0", "prompt": "grid 0"},
        {"group": "sudoku", "row": 1, "text": "s1", "prompt": "grid 1"},
        {"group": "gsm8k", "row": 0, "text": "g0", "prompt": "question 0"},
    ]
    groups, rows = side_by_side(samples)
    assert groups == [""]
    assert [(row.label, row.prompt, [s and s["text"] for s in row.samples]) for row in rows] == [
        ("sudoku 0", "grid 0", ["s0"]),
        ("gsm8k 0", "question 0", ["g0"]),
        ("sudoku 1", "grid 1", ["s1"]),
    ]


def test_a_long_prompt_is_folded_and_shows_its_end() -> None:
    samples = [
        {"text": "t", "prompt": "examples " * 100 + "the question", "reference": "r"},
        {"text": "u", "prompt": "short"},
    ]
    empty = Results(command="c", subject={}, protocol={}, metrics=())
    page = render(empty, samples, versions={})
    assert parse(page).words.count("the question") == 2  # in the summary, and in the whole
    assert page.count("<details><summary><b>prompt</b>") == 1
    assert "… " in page and '<b>prompt</b> <span class="text">short</span>' in page


def test_a_long_report_says_how_many_texts_it_leaves_out() -> None:
    samples = [{"text": str(i)} for i in range(SHOWN_TEXTS + 7)]
    empty = Results(command="c", subject={}, protocol={}, metrics=())
    found = parse(render(empty, samples, versions={}))
    assert "7 more in samples.jsonl" in found.words


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (37.2468, 1.53, "37.2 ± 1.5"),
        (0.012345, 0.00123, "0.0123 ± 0.0012"),
        (12345.6, 321.0, "12\u202f346 ± 321"),
        (0.0, 0.5, "0.00 ± 0.50"),
        (4.25, None, "4.250"),
        (-0.5, None, "-0.5000"),
        (128.0, None, "128"),
        (3.0, 0.0, "3"),
        (2.34e-12, None, "2.34e-12"),
        (math.inf, 1.0, "∞"),
        (math.nan, None, "not a number"),
    ],
)
def test_a_figure_has_two_digits_of_its_error(value: float, error: float | None, text: str) -> None:
    assert figure(value, error) == text


def test_the_same_plot_has_the_same_bytes_and_two_grounds() -> None:
    def paint(figure: object) -> None:
        figure.add_subplot().plot([1, 2], [3, 4])  # pyright: ignore

    first, second = (draw("t", "c", paint) for _ in range(2))
    assert first == second and first.light != first.dark


def test_the_figures_of_the_whole_have_a_name_beside_groups() -> None:
    metrics = (
        Metric(name="a", value=1.0, unit="", n=2),
        Metric(name="a", value=2.0, unit="", n=2, group="references"),
    )
    results = Results(command="c", subject={}, protocol={}, metrics=metrics)
    page = render(results, [{"text": "x", "right": True}], versions={})
    assert '<th scope="row">all</th>' in page
    assert "right yes" in " ".join(page.split())
