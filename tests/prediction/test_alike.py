"""Texts of a prompt share the pass of their first canvas; tokens and NFE stay the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlm_sampling import GenerateOutput, generate, samplers
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.prediction.alike import count_shared
from dlm_sampling.processes import Uniform
from dlm_sampling.types import DenoiserOutput, Pass

V, MASK, NEW, G = 6, 5, 4, 4
PROMPTS = [[1], [2, 3, 1]]
ROWS = len(PROMPTS) * G
LOOP: dict[str, Any] = {"max_new_tokens": NEW, "temperature": 1.0, "seed": 3, "steps": NEW}


class Counting(Denoiser):
    """A network in float64 that notes the rows, columns and times of its passes."""

    def __init__(self, *, rows_alike: bool = True, uniform: bool = False, timed: bool = False):
        super().__init__(
            vocab_size=V - uniform, mask_token_id=None if uniform else MASK, pad_token_id=0,
            process=Uniform() if uniform else None, time_conditioned=timed, honours_padding=False,
        )  # fmt: skip
        self.rows_alike = rows_alike
        generator = torch.Generator().manual_seed(1)
        self.table = torch.randn(V, V, generator=generator, dtype=torch.float64)
        self.shown: list[tuple[int, int]] = []

    def forward(self, inputs: Pass) -> DenoiserOutput:
        tokens = inputs.tokens
        self.shown.append((len(tokens), tokens.shape[1]))
        e = self.table[tokens, : self.vocab_size]
        place = torch.arange(1, tokens.shape[1] + 1).double()[:, None]
        time = 0.0 if inputs.t is None or not self.time_conditioned else inputs.t[:, None, None]
        return DenoiserOutput((e.sum(1, keepdim=True) * place + time).sin() * 2 + e)

    @property
    def columns(self) -> int:
        return sum(n * width for n, width in self.shown)


def drawn(model: Denoiser, sampler: str = "llada", **options: Any) -> GenerateOutput:
    options = {**LOOP, "num_return_sequences": G, **options}
    return generate(model, PROMPTS, sampler=sampler, **options)


def same(one: GenerateOutput, other: GenerateOutput) -> None:
    width = min(one.sequences.shape[1], other.sequences.shape[1])
    assert torch.equal(one.sequences[:, -width:], other.sequences[:, -width:])
    assert torch.equal(one.logprobs[:, -width:], other.logprobs[:, -width:])
    assert one.nfe.tolist() == other.nfe.tolist()


@pytest.mark.parametrize("guidance", [0.0, 0.5])
@pytest.mark.parametrize("sampler", ["llada", "llada-random", "first-hitting"])
def test_one_row_of_each_prompt_is_shown_in_the_first_step(sampler: str, guidance: float) -> None:
    shared, alone = Counting(), Counting(rows_alike=False)
    found = drawn(shared, sampler, guidance_scale=guidance)
    wanted = drawn(alone, sampler, guidance_scale=guidance)
    same(found, wanted)
    assert len({tuple(ids) for ids in found.token_ids}) > 2  # independent seeds
    passes = 1 if guidance == 0.0 else 2
    spans = [3 + NEW, 1 + NEW]  # padding is cut off: a pass of each width, the row from 0 first
    assert alone.shown[:2] == [(G, span) for span in spans]
    assert shared.shown[:2] == [(1, span) for span in spans]
    assert shared.shown[2 * passes :] == alone.shown[2 * passes :]
    spared = (G - 1) * sum(spans) * passes
    assert alone.columns - shared.columns == spared
    per_row = torch.tensor(spans[::-1]).repeat_interleave(G)
    assert float(((found.work - found.shared) * per_row).sum()) == shared.columns
    assert float((wanted.work * per_row).sum()) == alone.columns and not wanted.shared.any()
    assert torch.equal(found.work, wanted.work)  # a row's own, whatever the batch


def test_columns_that_another_row_shows_are_counted_by_hand() -> None:
    """Rows 0 and 2 are run; the last row of the pass is all padding and asks for nothing."""
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0] * 4]).bool()
    batch = torch.tensor([5, 1, 0, 2, 3])
    inputs = Pass(torch.zeros(5, 4, dtype=torch.int64), attention=real, rows=batch)
    shared = torch.full((6,), 0.25, dtype=torch.float64)
    count_shared(shared, inputs, torch.tensor([3, 3, 1, 1, 0]), torch.tensor([0, 2]))
    assert shared.tolist() == [0.25, 0.25 + 3 / 4, 0.25 + 1 / 2, 0.25, 0.25, 0.25]


def test_tokens_do_not_depend_on_the_micro_batch() -> None:
    whole = drawn(Counting())
    for size in (1, 3, G):
        model = Counting()
        same(drawn(model, batch_size=size), whole)
        groups = {1: ROWS, 3: 4, G: 2}[size]  # of 3 rows: one, two and one prompt
        assert sum(n for n, _ in model.shown) == ROWS * (NEW - 1) + groups


def test_rows_that_are_told_different_times_or_hold_noise_are_not_alike() -> None:
    for model, sampler in (
        (Counting(timed=True), "first-hitting"),
        (Counting(uniform=True), "ancestral"),
    ):
        out = drawn(model, sampler)
        assert sum(n for n, _ in model.shown) == int(out.nfe.sum())
        assert torch.equal(out.work, out.nfe.double()) and not out.shared.any()
    timed = Counting(timed=True)
    drawn(timed, "llada")  # whose first time is 1 in every row
    assert timed.shown[:2] == [(1, 3 + NEW), (1, 1 + NEW)]


def test_hidden_columns_and_further_readers_are_kept_apart() -> None:
    """Block-causal rows leave columns out; Picard shows several canvases of a row at once."""
    cases: tuple[dict[str, Any], ...] = (
        {"block_length": 2, "causal_blocks": True, "cache": "none"},
        {"sampler": samplers.Picard(window=2), "temperature": None},
        {"sampler": "p2"},
    )
    for options in cases:
        shared, alone = Counting(), Counting(rows_alike=False)
        found, wanted = drawn(shared, **options), drawn(alone, **options)
        same(found, wanted)
        assert shared.columns < alone.columns
        widths = torch.tensor([1 + NEW, 3 + NEW]).repeat_interleave(G)
        assert torch.equal(found.work, wanted.work)
        assert abs(float(((found.work - found.shared) * widths).sum()) - shared.columns) < 1e-9
        assert abs(float((wanted.work * widths).sum()) - alone.columns) < 1e-9
