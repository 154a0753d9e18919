"""Watermarks: the law over keys, the score without the key, detection, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dlm_sampling import generate, sample, samplers, wrap
from dlm_sampling.errors import SamplingWarning
from dlm_sampling.guidance import BestOf
from dlm_sampling.ops import RANDOM_STREAM, draw
from dlm_sampling.testing import EnumerableDenoiser, chi_square, count_states
from dlm_sampling.types import TokenLaw
from dlm_sampling.watermark import Watermark, detect, levels

JOINT = torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(5)).double() ** 3
JOINT /= JOINT.sum()
ROWS = 3000


def written(name: str, steps: int | None, mark: Watermark | None) -> Tensor:
    tokens, editable = torch.full((ROWS, 3), 3), torch.ones(ROWS, 3, dtype=torch.bool)
    return sample(
        EnumerableDenoiser(JOINT), samplers.create(name), tokens, editable, steps=steps,
        seeds=list(range(ROWS)), law=TokenLaw(), watermark=mark,
    ).tokens  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llada-entropy", "llada-random", "first-hitting"])
def test_over_keys_the_law_is_that_of_the_model(name: str) -> None:
    """One position a step makes each of them exact; every row has a key of its own."""
    steps = None if name == "first-hitting" else 3
    tokens = written(name, steps, Watermark(1, variants=ROWS))
    assert not torch.equal(tokens, written(name, steps, None))
    assert chi_square(count_states(tokens, 3), JOINT.flatten()).p > 1e-3


def test_one_key_makes_one_text_of_one_law_and_order() -> None:
    assert len(written("llada-entropy", 3, Watermark(1)).unique(dim=0)) == 1
    assert len(written("llada-entropy", 3, Watermark(1, variants=4)).unique(dim=0)) <= 4


@pytest.mark.parametrize("vocab", [20, 700, 2500])
def test_without_the_key_p_values_are_uniform_and_with_it_tiny(vocab: int) -> None:
    """Tokens of one law with both noises, in a vocabulary of one, two and three races."""
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(0)).double()
    n, texts = 30, 100
    mark = Watermark(7)

    def drawn(keys: Tensor) -> list[list[int]]:
        places = torch.arange(n).repeat(texts)
        found = draw(logits.expand(n * texts, -1), keys=keys, positions=places, steps=0 * places)
        return found.token.view(texts, n).tolist()

    plain = [detect(ids, mark, vocab_size=vocab) for ids in drawn(torch.arange(texts * n) // n)]
    assert levels(vocab) == (1 if vocab == 20 else 2 if vocab == 700 else 3)
    counts = torch.histc(torch.tensor([found.p_value for found in plain]), 5, 0.0, 1.0)
    assert chi_square(counts.long(), torch.full((5,), 0.2).double()).p > 1e-3
    assert sum(found.score for found in plain) / texts == pytest.approx(levels(vocab) * n, rel=0.1)
    marked = drawn(mark.keys().expand(texts * n))[0]
    assert detect(marked, mark, vocab_size=vocab).p_value < 1e-6
    assert detect(marked, Watermark(8), vocab_size=vocab).p_value > 1e-3


def flat(ids: Tensor) -> Tensor:
    return torch.zeros(*ids.shape, 40).index_fill(2, torch.tensor([39]), -torch.inf)


FLAT = wrap(flat, vocab_size=40, mask_token_id=39, eos_token_id=38, pad_token_id=38)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ancestral", {}),
        ("llada-margin", {"block_length": 8}),
        ("euler", {}),
        ("eb-sampler", {"temperature": 1.0, "steps": None}),
        ("dream-origin", {}),
    ],
)
def test_a_text_is_told_by_its_key_whatever_order_it_was_written_in(
    name: str, options: dict[str, Any]
) -> None:
    """Prompts of different length; the text begins at place 0."""
    settings = {"steps": 8, "temperature": 1.0, "max_new_tokens": 24, "eos": "keep", **options}
    out = generate(FLAT, [[1, 2, 3], [4]], sampler=name, watermark=11, seed=0, **settings)
    for ids in out.token_ids:
        assert detect(ids, 11, vocab_size=40).p_value < 1e-8
        assert detect(ids, 12, vocab_size=40).p_value > 1e-3
        late = ids[2:]
        assert detect(late, 11, vocab_size=40).p_value > 1e-3
        assert detect(late, 11, vocab_size=40, shifts=2).p_value < 1e-6
        hidden = [-1, *ids[1:]]
        assert detect(hidden, 11, vocab_size=40).tokens == 23
    wide = generate(FLAT, [[1]], sampler=name, watermark=Watermark(11, 9), seed=3, **settings)
    assert detect(wide.token_ids[0], Watermark(11, 9), vocab_size=40).p_value < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "llada", "temperature": 1.0}, "LLaDA on absorbing noise uses the noise of a"),
        ({"sampler": "remdm-cap"}, "ReMDM on absorbing noise uses the noise of a place more than"),
        ({"sampler": "llada-entropy"}, "at temperature 0 nothing is left to chance"),
        ({"cuda_graph": True}, "its steps are not recorded"),
        ({"guidance": BestOf(lambda x: x[:, 0].double(), 2)}, "all candidates of BestOf"),
    ],
)
def test_what_would_change_the_law_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^watermark: .*{message}|^watermark: {message}"):
        generate(FLAT, [[1]], max_new_tokens=4, **{"watermark": 3, **options})


def test_bad_values_are_named_and_the_key_is_not_shown() -> None:
    with pytest.raises(TypeError, match="watermark is a str: must be a secret whole number"):
        generate(FLAT, [[1]], max_new_tokens=4, watermark="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be in \[0, 2\^64\)"):
        Watermark(-5)
    with pytest.raises(ValueError, match="variants=0"):
        Watermark(5, variants=0)
    text: Any = "a text"
    with pytest.raises(
        TypeError, match=r"token_ids is the text 'a text': must be the ids .*out\.token_ids"
    ):
        detect(text, 1, vocab_size=40)
    for ids in ([], [40], [-2]):
        with pytest.raises(ValueError, match=r"at least one, in \[0, 40\)"):
            detect(ids, 1, vocab_size=40)
    assert "98765" not in repr(Watermark(98765)) + Watermark(98765).name
    assert Watermark(98765).name != Watermark(98766).name


def test_a_text_of_this_version_is_found_by_later_ones() -> None:
    """The noise of a key is part of the random stream."""
    assert RANDOM_STREAM == 1
    assert Watermark(1).keys().tolist() == [-9039842718086349479]


def test_a_key_is_any_whole_number_of_64_bits_and_is_never_shown() -> None:
    large = 2**63 + 11
    assert Watermark(np.int64(3)).name == Watermark(3).name != Watermark(large).name
    for wrong, kind in ((2.5, TypeError), (True, TypeError), (2**64, ValueError), (-7, ValueError)):
        with pytest.raises(kind, match="watermark") as told:
            Watermark(wrong)  # pyright: ignore[reportArgumentType]
        assert str(wrong) not in str(told.value).replace("2^64", "")


def test_texts_that_share_the_noise_of_a_key_are_told(recwarn: pytest.WarningsRecorder) -> None:
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    toy = wrap(
        lambda input_ids: logits.expand(len(input_ids), -1, -1), vocab_size=9, mask_token_id=8
    )
    options: dict[str, Any] = {"sampler": "llada-entropy", "max_new_tokens": 6, "temperature": 1.0}
    out = generate(toy, seed=1, num_return_sequences=3, watermark=np.int64(77), **options)
    assert out.token_ids[0] == out.token_ids[1]
    assert "variants=64" in str(recwarn.pop(SamplingWarning).message)
    equal = {**options, "max_new_tokens": 5}
    generate(toy, [[1], [2], [1]], seed=1, watermark=77, **equal)  # equal prompts in a list
    assert "The 2 sequences of prompt 0" in str(recwarn.pop(SamplingWarning).message)
    mark = Watermark(77, variants=64)
    varied = generate(toy, seed=1, num_return_sequences=3, watermark=mark, **options)
    assert len({tuple(ids) for ids in varied.token_ids}) > 1 and not recwarn.list
