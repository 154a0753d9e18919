"""The causal judge against transformers' own loss, a judge computed by hand, and itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from dlm_eval.data import JUDGE, passages
from dlm_eval.judges.causal import CausalJudge
from dlm_eval.judges.scores import TextScores

from dlm_sampling.denoisers.checkpoints import reach
from dlm_sampling.errors import UsageError

TEXTS = [
    "The old king rode away.",
    "No.",
    "",
    "She said that it was, and went home to sleep.\n\nOh",
]
P = torch.tensor(
    # after a, b, end: probability of a, b, end
    [[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.25, 0.5, 0.25]],
    dtype=torch.float64,
)


class ByHand:
    """A language model of two letters in which the next token depends on the last one only."""

    device = torch.device("cpu")
    config = SimpleNamespace(to_dict=lambda: {"n_positions": 6})

    def __init__(self, rows_that_fit: int = 100) -> None:
        self.rows_that_fit = rows_that_fit
        self.batches: list[int] = []

    def eval(self) -> ByHand:
        return self

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        if len(input_ids) > self.rows_that_fit:
            raise torch.OutOfMemoryError("full")
        self.batches.append(len(input_ids))
        return SimpleNamespace(logits=P[input_ids].log().float())


class Letters:
    """Its tokenizer: a, b, and "." for the end of text."""

    eos_token_id = 2
    bos_token_id = None

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [["ab.".index(letter) for letter in text] for text in texts]}


def by_hand(rows_that_fit: int = 100) -> CausalJudge:
    return CausalJudge(ByHand(rows_that_fit), Letters(), name="by hand")


@pytest.fixture(scope="module")
def judge() -> CausalJudge:
    return CausalJudge.from_pretrained("own")


def test_the_sum_is_transformers_own_loss(judge: CausalJudge) -> None:
    scores = judge.score(TEXTS, progress=False)
    for text, nll, count in zip(TEXTS, scores.nll, scores.counts, strict=True):
        ids = judge.tokenizer(text, return_tensors="pt")["input_ids"].long()
        assert count == max(0, ids.shape[1] - 1)
        if count:
            loss = judge.model(input_ids=ids, labels=ids).loss.item()
            assert nll == pytest.approx(loss * count, rel=1e-5)


def test_by_hand() -> None:
    """a b: 1/4.  b b a: 3/4 1/8.  b . a . : the first end and the a count, the second end not."""
    scores = by_hand().score(["ab", "bba", "b.a."], progress=False)
    np.testing.assert_allclose(np.exp(-scores.nll), [1 / 4, 3 / 32, 1 / 8 * 1 / 4], rtol=1e-6)
    assert scores.counts.tolist() == [1, 2, 2]
    product = 1 / 4 * 3 / 32 * 1 / 32
    assert scores.perplexity() == pytest.approx(product ** (-1 / 5))
    each = [4.0, (3 / 32) ** -0.5, 32**0.5]
    assert scores.perplexity("text") == pytest.approx(np.mean(each))
    assert scores.standard_error("text") == pytest.approx(np.std(each, ddof=1) / 3**0.5)


def test_a_beginning_makes_the_first_token_count() -> None:
    scores = by_hand().score(["ab", ""], add_bos=True, progress=False)
    np.testing.assert_allclose(np.exp(-scores.nll), [1 / 4 * 1 / 4, 1])
    assert scores.counts.tolist() == [2, 0]
    assert scores.ids == ((0, 1), ())  # the beginning is no token of the text


def test_tokens_beyond_the_limit_do_not_count() -> None:
    judge = by_hand()
    assert judge.limit == 6
    assert judge.score(["ab" * 20], progress=False).counts.tolist() == [5]
    assert judge.score(["ab" * 20], add_bos=True, progress=False).counts.tolist() == [5]


def test_figures_do_not_depend_on_the_batch(judge: CausalJudge) -> None:
    texts = [p[: 40 * (i + 1)] for i, p in enumerate(passages(7, 300))]
    alone = judge.score(texts, batch_size=1, progress=False)
    together = judge.score(texts[::-1], batch_size=5, progress=False)
    np.testing.assert_allclose(together.nll[::-1], alone.nll, rtol=1e-5)
    assert together.ids[::-1] == alone.ids
    np.testing.assert_allclose(
        judge.features(texts, batch_size=7), judge.features(texts, batch_size=1), atol=2e-4
    )


def test_batches_are_halved_until_they_fit() -> None:
    texts = ["ab", "bba", "b", "aab", "bb", "a"]
    judge = by_hand(rows_that_fit=2)
    found = judge.score(texts, batch_size=6, progress=False)
    assert judge.model.batches == [1] * 6  # 6 and 3 do not fit
    assert found.nll.tolist() == by_hand().score(texts, progress=False).nll.tolist()
    with pytest.raises(torch.OutOfMemoryError):
        by_hand(rows_that_fit=0).score(texts, progress=False)


def test_texts_without_tokens_are_left_out_and_counted(judge: CausalJudge) -> None:
    with_empty = judge.score(["", *TEXTS, ""], progress=False)
    without = judge.score([text for text in TEXTS if text], progress=False)
    assert with_empty.silent == 3
    assert with_empty.perplexity() == pytest.approx(without.perplexity(), rel=1e-5)
    with pytest.raises(ValueError, match="none of the 2 texts has two tokens"):
        judge.score(["", ""], progress=False).perplexity()


def test_the_standard_error_is_that_of_the_jackknife() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 50, 200)
    nll = counts * rng.normal(3.0, 0.3, 200)
    scores = TextScores(nll, counts, ((),) * 200)
    rest = [np.exp(np.delete(nll, i).sum() / np.delete(counts, i).sum()) for i in range(200)]
    jackknife = float(np.std(rest) * 199**0.5)
    assert scores.standard_error() == pytest.approx(jackknife, rel=0.03)


def test_order_matters_to_the_judge(judge: CausalJudge) -> None:
    texts = passages(8, 400)
    shuffled = [" ".join(sorted(text.split())) for text in texts]
    assert judge.score(shuffled).perplexity() > 1.5 * judge.score(texts).perplexity()


def test_a_wrong_path_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "why_out_of_reach", lambda address: f"{address} is away")
    for name, why in (
        (str(tmp_path), "holds no config.json"),
        (str(tmp_path / "nothing"), "is no folder"),
        ("runs/of/mine", "is no folder"),
        (__file__, "is no folder"),
        ("runs/mine", "is away"),
    ):
        with pytest.raises(UsageError, match=why) as error:
            CausalJudge.from_pretrained(name)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(f"--judge {name}: ")


def test_the_revision_names_weights_and_tokenizer(judge: CausalJudge, tmp_path: Path) -> None:
    copy = shutil.copytree(JUDGE, tmp_path / "copy")
    assert CausalJudge.from_pretrained(copy).revision == judge.revision
    config = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    (copy / "tokenizer.json").write_text(json.dumps(config, indent=3), encoding="utf-8")
    assert CausalJudge.from_pretrained(copy).revision != judge.revision
