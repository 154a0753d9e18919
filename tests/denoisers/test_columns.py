"""A pass that asks for some columns gets the values that a pass over all columns has there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from dlm_sampling.denoisers import AutoDenoiser, Denoiser, MaskedLMDenoiser, wrap
from dlm_sampling.denoisers.columns import at_columns
from dlm_sampling.denoisers.families.loopholing import LoopholingDenoiser
from dlm_sampling.types import DenoiserOutput, Pass

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
SETTINGS: dict[str, dict[str, Any]] = {
    "llada2_moe": {"mask_token_id": 126, "block_length": 4},
    "sdar": {"block_length": 4},
}
BERT: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
}
T = torch.tensor([0.3, 0.9, 0.6], dtype=torch.float64)


def load(folder: str) -> Denoiser:
    return AutoDenoiser.from_pretrained(MODELS / folder, **SETTINGS.get(folder, {}))


def bert() -> Denoiser:
    torch.manual_seed(0)
    return MaskedLMDenoiser(BertForMaskedLM(BertConfig(**BERT)), mask_token_id=126)


def toy(shifted: bool) -> Denoiser:
    def logits(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        seen = 1 if attention_mask is None else attention_mask.unsqueeze(-1)
        table = torch.sin(torch.arange(128.0) * (1.0 + input_ids.unsqueeze(-1)))
        return table + (table * seen).mean(1, keepdim=True)

    return wrap(logits, vocab_size=128, mask_token_id=126, shifted=shifted)


def of_columns(input_ids: Tensor, columns: Tensor | None = None) -> DenoiserOutput:
    """A function that computes no more than is asked for."""
    whole = torch.nn.functional.one_hot(input_ids, 128).double() + input_ids.unsqueeze(-1)
    return DenoiserOutput(at_columns(whole, columns), columns=columns)


FOLDERS = sorted(
    folder.name
    for folder in MODELS.iterdir()
    if (folder / "meta.json").is_file() and folder.name not in ("ddpd_planner", "diffusion_gemma")
)
MAKERS: dict[str, Callable[[], Denoiser]] = {
    **{folder: (lambda folder=folder: load(folder)) for folder in FOLDERS},
    "masked_lm": bert,
    "loopholing": lambda: LoopholingDenoiser(load("llada"), scale=0.7),
    "loopholing-dit": lambda: LoopholingDenoiser(load("duo"), scale=0.7),
    "loopholing-masked_lm": lambda: LoopholingDenoiser(bert(), scale=0.7),
    "wrapped": lambda: toy(False),
    "wrapped-shifted": lambda: toy(True),
    "wrapped-columns": lambda: wrap(
        of_columns, vocab_size=128, mask_token_id=126, honours_padding=False
    ),
}
WHOLE = {"masked_lm", "wrapped"}
"""Those that ignore `columns`."""


def inputs(denoiser: Denoiser, padded: bool) -> Pass:
    ids = torch.randint(0, 120, (3, 12), generator=torch.Generator().manual_seed(1))
    seen = torch.ones(3, 12, dtype=torch.bool)
    if padded:
        seen[0, :5] = seen[1, 7:] = seen[2, :2] = False
    carry = denoiser.initial_carry(ids) + 0.5 if denoiser.carries else None
    return Pass(ids, T, seen if padded else None, carry=carry)


def logits_of(denoiser: Denoiser, out: DenoiserOutput) -> Tensor:
    return out.values if out.head is None else out.head(out.values)


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_some_columns_are_those_of_the_whole_canvas(name: str, padded: bool) -> None:
    denoiser = MAKERS[name]()
    given = inputs(denoiser, padded)
    columns = torch.tensor([[5, 6, 11, 8], [6, 0, 1, 4], [2, 3, 9, 9]])
    whole, some = denoiser.forward(given), denoiser.forward(given._replace(columns=columns))
    assert whole.columns is None
    everywhere, values = logits_of(denoiser, whole), logits_of(denoiser, some)
    steps = (everywhere[:, 1:] - everywhere[:, :-1]).abs().amax(-1)
    assert (steps > 1e-3).float().mean() > 0.6  # neighbours differ: a wrong column shows
    if name in WHOLE:
        assert some.columns is None
        values = at_columns(values, columns)
    else:
        assert some.columns is columns
        assert len(some.values[0]) == 4
    expected = at_columns(everywhere, columns)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)
    if denoiser.carries:
        assert torch.equal(some.carry, whole.carry)  # of all columns


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_cache_is_refused(name: str) -> None:
    denoiser = MAKERS[name]()
    with pytest.raises(ValueError, match=r"cache is a dict: must be None"):
        denoiser.forward(inputs(denoiser, False)._replace(cache={}))


@torch.no_grad()
def test_a_canvas_network_returns_its_canvas_and_keeps_no_room_for_the_prompt() -> None:
    if not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
        pytest.skip("transformers is too old for DiffusionGemma")
    denoiser = load("diffusion_gemma")
    canvas = denoiser.canvas_length
    assert canvas is not None
    ids = torch.randint(0, 120, (2, canvas + 5), generator=torch.Generator().manual_seed(1))
    expected = denoiser.logits(ids)[:, 5:]
    for columns in (None, torch.tensor([[7, 8], [9, 10]])):
        out = denoiser.forward(Pass(ids, T[:2], columns=columns))
        assert out.columns is not None
        assert out.columns.tolist() == [list(range(5, canvas + 5))] * 2
        assert torch.equal(out.values, expected)
    with pytest.raises(ValueError, match=r"cache is a dict: must be None"):
        denoiser.forward(Pass(ids, cache={}))


def test_wrapped_functions_say_which_columns_they_return() -> None:
    wrapped = wrap(
        lambda ids: DenoiserOutput(torch.zeros(2, 3, 4), columns=torch.zeros(2, 2).long()),
        vocab_size=4,
        mask_token_id=3,
    )
    with pytest.raises(ValueError, match=r"returned shape \(2, 3, 4\).*must be \(2, 2, 4\)"):
        wrapped(torch.zeros(2, 5).long())
    shifted = wrap(of_columns, vocab_size=128, mask_token_id=126, shifted=True)
    whole = shifted(torch.zeros(2, 5).long())
    assert whole.columns is None
    partial = wrap(
        lambda ids: of_columns(ids, torch.zeros(2, 1).long()),
        vocab_size=128,
        mask_token_id=126,
        shifted=True,
    )
    with pytest.raises(ValueError, match="must return all with shifted=True"):
        partial(torch.zeros(2, 5).long())
