"""Figures of texts and the warnings that stand above them."""

from __future__ import annotations

import numpy as np
import pytest
from dlm_eval.data import passages
from dlm_eval.judges.causal import CausalJudge
from dlm_eval.report import Metric
from dlm_eval.text.samples import Sample
from dlm_eval.text.score import Protocol, Scored, collapse_warning, score_samples

FOLK = tuple(passages(24, 200))


@pytest.fixture(scope="module")
def judge() -> CausalJudge:
    return CausalJudge.from_pretrained("own")


def figure(scored: Scored, name: str, group: str = "") -> Metric:
    return next(m for m in scored.metrics if (m.name, m.group) == (name, group))


def test_each_figure_is_that_of_the_judge(judge: CausalJudge) -> None:
    texts = [f"{text[:90]} and home." for text in FOLK]
    samples = [Sample(text, nfe=3 + i % 2, seed=i) for i, text in enumerate(texts)]
    protocol = Protocol(
        judge=judge, references=FOLK, reference_name="folk", features=judge, mauve_seeds=(25, 26)
    )
    scored = score_samples(samples, protocol)
    direct = judge.score(texts)
    assert figure(scored, "generative perplexity").value == direct.perplexity()
    assert figure(scored, "generative perplexity", "references").value == pytest.approx(
        judge.score(FOLK).perplexity()
    )
    assert figure(scored, "NFE").value == 3.5
    assert figure(scored, "NFE").error == pytest.approx(0.5 / 23**0.5)  # of 12 threes, 12 fours
    assert figure(scored, "length").value == np.mean([len(ids) for ids in direct.ids])
    assert figure(scored, "MAUVE").n == 24
    row = scored.rows[5]
    assert row["text"] == texts[5] and row["nfe"] == 4 and row["seed"] == 5
    assert row["perplexity"] == pytest.approx(np.exp(direct.nll[5] / direct.counts[5]), abs=1e-3)
    assert not any("collapsed" in warning for warning in scored.warnings)
    facts = protocol.facts()
    assert facts["judge_revision"] == judge.revision and facts["mauve_seeds"] == [25, 26]
    renamed = Protocol(
        judge=judge, references=FOLK, reference_name="./folk", features=judge, mauve_seeds=(25, 26)
    )
    assert renamed.facts() == facts and renamed.named() == {"references": "./folk"}
    other = Protocol(judge=judge, references=FOLK[:-1], reference_name="folk")
    assert other.facts()["references_hash"] != facts["references_hash"]


def test_collapsed_entropy_is_said(judge: CausalJudge) -> None:
    samples = [Sample("the door, and the door, and " * 7) for _ in FOLK]
    scored = score_samples(samples, Protocol(judge=judge, references=FOLK))
    low, high = (figure(scored, "unigram entropy", g).value for g in ("", "references"))
    assert low < high - 0.5
    collapse, copies = sorted(scored.warnings, key=lambda text: "collapsed" not in text)
    assert collapse.startswith("Entropy has collapsed: ")
    assert copies.startswith("23 of 24 texts are copies")


def test_the_rule_of_collapse() -> None:
    people = [[0, 1, 2, 3, 4, 5, 6, 7]] * 19 + [[0, 1, 2, 3, 4, 5, 6, 6]]
    most, less = np.log(8), np.log(8) - 2 / 8 * np.log(2)
    quantile = float(np.quantile([most] * 19 + [less], 0.05))
    assert less < quantile < most
    assert collapse_warning(people, people) is None
    assert "5 % quantile" in str(collapse_warning([[0, 1, 2, 3, 4, 5, 6, 6]], people))
    assert "0.5 nats below" in str(collapse_warning([[0, 1, 2, 3, 0, 1, 2, 3]], people))
    # The quantile of few references says nothing.
    assert collapse_warning([[0, 1, 2, 3, 4, 5, 6, 6]], people[:9]) is None
    # A short text cannot have the entropy of a long one: as many tokens of both are compared.
    assert collapse_warning([[0, 1, 2, 3]], people) is None
    assert collapse_warning([people[0]] * 16 + [[1]] * 9, people) is None
    assert collapse_warning([people[0]] * 13 + [[0, 1, 2]] * 12, people) is None
    assert collapse_warning([[]], people) is None


def test_only_repeated_words_are_called_so() -> None:
    people = [list(range(12))] * 20
    loop, fewer = [0, 1, 2, 3] * 3, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    again = 1 - 4 / 9  # of its nine 4-grams four are different
    assert f"repeat themselves, {again:.0%} of their 4-grams against 0%" in str(
        collapse_warning([loop], people)
    )
    told = str(collapse_warning([fewer], people))
    assert "0.5 nats below" in told and "repeat" not in told


def test_what_the_judge_cuts_is_told(judge: CausalJudge) -> None:
    texts = [Sample(text) for text in ("the door " * judge.limit, FOLK[0], FOLK[1])]
    for add_bos, limit in ((False, judge.limit), (True, judge.limit - 1)):
        told = score_samples(texts, Protocol(judge=judge, add_bos=add_bos)).warnings
        assert any(
            f"1 of 3 texts are longer than the judge's {limit} tokens" in warning
            for warning in told
        )
    assert not score_samples(texts[1:], Protocol(judge=judge)).warnings


def test_too_few_texts_that_are_not_empty_have_no_mauve(judge: CausalJudge) -> None:
    protocol = Protocol(judge=judge, references=FOLK, features=judge, mauve_seeds=(25,))
    scored = score_samples([Sample(text) for text in (*[""] * 5, *FOLK[5:])], protocol)
    assert "MAUVE" not in {metric.name for metric in scored.metrics}
    assert any(
        warning.startswith("MAUVE is left out, as ")
        and "of 24 pairs" in warning
        and " 5 " in warning
        for warning in scored.warnings
    )


def test_texts_that_cannot_be_scored_are_counted(judge: CausalJudge) -> None:
    scored = score_samples([Sample(text) for text in ("", *FOLK)], Protocol(judge=judge))
    assert figure(scored, "generative perplexity").n == 24
    assert scored.warnings[0].startswith("1 of 25 texts have fewer than two tokens")
    assert scored.rows[0]["perplexity"] is None
    begun = score_samples([Sample(text) for text in ("", *FOLK[:2])],
                          Protocol(judge=judge, add_bos=True))  # fmt: skip
    assert begun.warnings[0].startswith("1 of 3 texts have no token of the judge")
    with pytest.raises(ValueError, match="3 texts and 24 references"):
        score_samples([Sample("a")] * 3, Protocol(judge=judge, references=FOLK, features=judge))
