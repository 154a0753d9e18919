"""Metrics load through the package evaluate without a network, and give the judges' figures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dlm_eval.data import passages
from dlm_eval.judges.causal import CausalJudge
from dlm_eval.judges.diversity import unigram_entropy
from dlm_eval.judges.mauve import mauve
from dlm_eval.metrics import NAMES, folder

TEXTS = passages(22, 100)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluate import config

    monkeypatch.setattr(config, "HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr(config, "HF_MODULES_CACHE", str(tmp_path))
    # A package of that name in another folder, found before, would hide the modules of this one.
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        monkeypatch.delitem(sys.modules, name)


def test_metrics_are_the_judges_figures(tmp_path: Path) -> None:
    import evaluate

    loaded = {name: evaluate.load(folder(name), cache_dir=str(tmp_path / "data")) for name in NAMES}
    scores = CausalJudge.from_pretrained("own").score(TEXTS)
    found = loaded["gen_perplexity"].compute(predictions=TEXTS)
    assert found["perplexity"] == pytest.approx(scores.perplexity())
    assert found["entropy"] == unigram_entropy(scores.ids)
    assert found["tokens"] == scores.counts.sum()
    found = loaded["entropy"].compute(predictions=TEXTS)
    assert found == {"entropy": unigram_entropy(scores.ids), "texts": 22}
    backwards = [text[::-1] for text in TEXTS]
    found = loaded["mauve"].compute(
        predictions=backwards, references=TEXTS, judge="own", seeds=(25, 26)
    )
    direct = mauve(backwards, TEXTS, featuriser="own", seeds=(25, 26))
    assert found["values"] == pytest.approx(list(direct.values))
    for name, metric in loaded.items():
        texts = {"predictions": [], "references": []} if name == "mauve" else {"predictions": []}
        with pytest.raises(ValueError, match=r"predictions=\[\]: give at least one"):
            metric.compute(**texts)
        nothing = str(tmp_path)
        texts = {key: TEXTS for key in texts}
        with pytest.raises(ValueError, match=r"^judge .*config\.json"):
            metric.compute(**texts, judge=nothing)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ValueError, match="gen_perplexity"):
        folder("perplexity")
