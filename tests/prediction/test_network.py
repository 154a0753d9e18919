"""An attention mask that a network ignores is found out by one probe, and mended."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlm_sampling import elbo, sample, wrap
from dlm_sampling.prediction.network import prove_padding
from dlm_sampling.samplers import create

V, MASK = 12, 11


PADDED = torch.tensor([[0, 0, 3, MASK], [1, MASK, MASK, MASK]])
RAGGED: dict[str, Any] = {
    "attention_mask": torch.tensor([[False, False, True, True], [True] * 4]),
    "seeds": [0, 1],
    "steps": 1,
}


UNEQUAL = "attention_mask does not make a padded row equal to the row alone"


class Mixing(nn.Module):
    """Logits from a token and the mean over the row; with or without a look at the mask."""

    def __init__(self, honest: bool) -> None:
        super().__init__()
        self.honest, self.table, self.calls = honest, nn.Embedding(V, V), 0
        nn.init.normal_(self.table.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.calls += 1
        values = self.table(input_ids)
        real = torch.ones_like(input_ids)
        if attention_mask is not None and self.honest:
            real = attention_mask.long()
        mean = (values * real[..., None]).sum(1, keepdim=True) / real.sum(1)[:, None, None]
        return values + 4 * mean


def run(network: Mixing, rows: list[int], **facts: Any) -> tuple[Any, list[list[int]]]:
    """Rows of some lengths, padded on the left; returns the real tokens of each."""
    denoiser = wrap(network, vocab_size=V, mask_token_id=MASK, **facts)
    width = max(rows)
    tokens, mask = torch.zeros(len(rows), width).long(), torch.zeros(len(rows), width).bool()
    for i, length in enumerate(rows):
        tokens[i, -length:], mask[i, -length:] = MASK, True
        tokens[i, -length] = length % 7
    editable = mask & (tokens == MASK)
    given: dict[str, Any] = {"seeds": rows, "attention_mask": mask, "steps": 4}
    out = sample(denoiser, create("ancestral"), tokens, editable, **given)
    return denoiser, [out.tokens[i][mask[i]].tolist() for i in range(len(rows))]


def test_an_ignored_mask_is_found_and_rows_stand_alone() -> None:
    alone = [run(Mixing(False), [length])[1][0] for length in (9, 4, 6)]
    with pytest.warns(UserWarning, match=UNEQUAL):
        denoiser, rows = run(Mixing(False), [9, 4, 6])
    assert rows == alone
    assert not denoiser.honours_padding


class Placed(Mixing):
    """A network that reads the mask, and the column as the position."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        column = torch.arange(input_ids.shape[1])[:, None]
        return super().forward(input_ids, attention_mask) + column


def test_positions_that_padding_moves_are_not_laid_on_the_mask() -> None:
    with pytest.warns(UserWarning, match=UNEQUAL) as found:
        run(Placed(True), [9, 4, 6])
    assert "positions count from the first column" in str(found[0].message)
    assert "reach" not in str(found[0].message)


def test_a_network_that_reads_the_mask_is_probed_once() -> None:
    network = Mixing(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoiser, rows = run(network, [9, 4, 6])
    assert denoiser.honours_padding
    assert rows == [run(Mixing(True), [length])[1][0] for length in (9, 4, 6)]
    assert 2 < network.calls <= 4 + 2, "one padded row, and the row alone"
    calls = network.calls
    run_again = sample(denoiser, create("ancestral"), PADDED, PADDED == MASK, **RAGGED)
    assert network.calls - calls == int(run_again.nfe.max()), "and never again"


@pytest.mark.parametrize("word", [True, False])
def test_the_callers_word_is_taken_and_every_pass_is_counted(word: bool) -> None:
    network = Mixing(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoiser, _ = run(network, [9, 4, 6], honours_padding=word)
    assert denoiser.honours_padding is word
    assert network.calls <= (4 if word else 12)


def test_without_padding_nothing_is_probed() -> None:
    network = Mixing(False)
    denoiser, _ = run(network, [6, 6])
    assert network.calls <= 4
    assert not denoiser.padding_proven


def test_scores_are_protected_too() -> None:
    tokens, mask = torch.tensor([[0, 0, 3, 5], [1, 2, 3, 4]]), torch.ones(2, 4).bool()
    mask[0, :2] = False
    given: dict[str, Any] = {"editable": mask}
    denoiser = wrap(Mixing(False), vocab_size=V, mask_token_id=MASK)
    with pytest.warns(UserWarning, match=UNEQUAL):
        found = elbo(denoiser, tokens, seed=0, attention_mask=mask, n=2, **given)
    honest = wrap(Mixing(True), vocab_size=V, mask_token_id=MASK)
    wanted = elbo(honest, tokens, seed=0, attention_mask=mask, n=2, **given)
    torch.testing.assert_close(found.value, wanted.value)


class Moved(nn.Module):
    """Two finite logits of 12 per token, `gap` larger where the canvas has padding."""

    def __init__(self, gap: float, scale: float) -> None:
        super().__init__()
        self.gap, self.scale = gap, scale

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = torch.full((*input_ids.shape, V), -torch.inf, dtype=torch.float64)
        logits[..., 0], logits[..., 1] = self.scale, -self.scale
        if attention_mask is not None:
            logits[..., 0] += self.gap
        return logits


@pytest.mark.parametrize("scale", [0.5, 3.0, 40.0])
@pytest.mark.parametrize("share", [0.99, 1.01, -0.99, -1.01])
def test_a_difference_counts_in_units_of_the_spread_of_the_logits(
    scale: float, share: float
) -> None:
    """The standard deviation, infinite logits as 0, or 1; a millionth of it is rounding."""
    table = torch.zeros(2, V, dtype=torch.float64)
    table[:, 0], table[:, 1] = scale, -scale
    gap = share * 1e-6 * max(1.0, float(table.std()))
    denoiser = wrap(Moved(gap, scale), vocab_size=V, mask_token_id=MASK)
    attention = torch.tensor([[True, True, True], [False, True, True]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prove_padding(denoiser, torch.zeros(2, 3).long(), attention)
    assert denoiser.honours_padding is (abs(share) < 1)
    assert denoiser.padding_proven


@pytest.mark.parametrize("attention", [[[True] * 3] * 2, [[True] * 3, [False] * 3]])
def test_rows_without_padding_or_without_a_token_prove_nothing(attention: list[list[bool]]) -> None:
    denoiser = wrap(Moved(1.0, 1.0), vocab_size=V, mask_token_id=MASK)
    prove_padding(denoiser, torch.zeros(2, 3).long(), torch.tensor(attention))
    assert denoiser.honours_padding and not denoiser.padding_proven
