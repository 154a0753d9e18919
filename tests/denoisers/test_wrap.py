"""Any callable is a denoiser: arguments follow the signature, shapes are checked."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlm_sampling import generate
from dlm_sampling.denoisers import Denoiser, wrap
from dlm_sampling.denoisers.columns import positions_of, shift_right
from dlm_sampling.types import DenoiserOutput

V, MASK = 7, 6
IDS = torch.tensor([[0, 1, 6, 6], [2, 6, 3, 6]])


def one_hot(input_ids: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(input_ids, V).float()


def test_function_of_ids_only() -> None:
    denoiser = wrap(one_hot, vocab_size=V, mask_token_id=MASK)
    assert isinstance(denoiser, Denoiser)
    assert not denoiser.honours_padding
    assert not denoiser.time_conditioned
    assert torch.equal(denoiser.logits(IDS), one_hot(IDS))
    assert torch.equal(denoiser.logits(IDS, torch.ones_like(IDS)), one_hot(IDS))


def test_arguments_follow_the_signature() -> None:
    seen: dict[str, Any] = {}

    def fn(
        input_ids: Tensor, attention_mask: Tensor | None = None, *, t: Tensor
    ) -> SimpleNamespace:
        seen.update(mask=attention_mask, t=t)
        return SimpleNamespace(logits=one_hot(input_ids))

    denoiser = wrap(fn, vocab_size=V, mask_token_id=MASK)
    assert denoiser.honours_padding
    assert denoiser.time_conditioned
    denoiser(IDS, torch.ones_like(IDS), torch.tensor([0.5, 0.25], dtype=torch.float64))
    assert seen["mask"].dtype == torch.bool
    assert seen["t"].tolist() == [0.5, 0.25]
    with pytest.raises(ValueError, match="t is missing"):
        denoiser(IDS)


def test_an_argument_without_default_is_always_given() -> None:
    def fn(input_ids: Tensor, attention_mask: Tensor, carry: Any) -> Tensor:
        assert carry is None
        return one_hot(input_ids) * attention_mask.sum(1)[:, None, None]

    denoiser = wrap(fn, vocab_size=V, mask_token_id=MASK)
    assert torch.equal(denoiser.logits(IDS), 4 * one_hot(IDS))
    assert generate(denoiser, [[1, 2], [3]], max_new_tokens=2, seed=0).sequences.shape == (2, 4)

    def other(input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        return one_hot(input_ids)

    with pytest.raises(TypeError, match="fn needs 'position_ids', which is not passed"):
        wrap(other, vocab_size=V, mask_token_id=MASK)
    fixed = wrap(partial(other, position_ids=IDS), vocab_size=V, mask_token_id=MASK)
    assert torch.equal(fixed.logits(IDS), one_hot(IDS))


def test_module_is_put_in_evaluation_mode_and_gradients_follow_the_caller() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(V, V)
            self.dropout = nn.Dropout(0.5)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.dropout(self.table(input_ids))

    net = Net()
    denoiser = wrap(net, vocab_size=V, mask_token_id=MASK)
    assert not net.training
    assert denoiser.num_parameters == V * V
    assert denoiser.logits(IDS).requires_grad
    with torch.no_grad():
        assert not denoiser.logits(IDS).requires_grad


def test_hidden_states_with_a_head() -> None:
    head = nn.Linear(3, V)
    denoiser = wrap(
        lambda ids: DenoiserOutput(torch.ones(*ids.shape, 3), head),
        vocab_size=V,
        mask_token_id=MASK,
    )
    assert denoiser.logits(IDS).shape == (2, 4, V)


def test_shifted_logits_are_aligned_and_the_first_real_token_keeps_its_own() -> None:
    columns = torch.arange(4.0)[None, :, None].expand(2, 4, V)
    denoiser = wrap(
        lambda input_ids, attention_mask=None: columns,
        vocab_size=V,
        mask_token_id=MASK,
        shifted=True,
    )
    assert denoiser.logits(IDS)[0, :, 0].tolist() == [0, 0, 1, 2]
    mask = torch.tensor([[0, 0, 1, 1], [1, 0, 1, 1]])
    assert denoiser.logits(IDS, mask)[:, :, 0].tolist() == [[0, 1, 2, 2], [0, 0, 0, 2]]


def test_positions_count_real_tokens() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]).bool()
    assert positions_of(mask, IDS).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
    assert positions_of(None, IDS).tolist() == [[0, 1, 2, 3]]
    states = torch.arange(4.0)[None, :, None].expand(2, 4, 1)
    assert torch.equal(shift_right(states, torch.ones_like(mask)), shift_right(states, None))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.zeros(2, 4, 9), "Pass vocab_size=9"),
        (torch.zeros(4, 2, V), "transposed"),
        (torch.zeros(2, V), "one row of logits per position"),
        ("text", "returned str"),
    ],
)
def test_wrong_outputs_say_what_to_change(returned: object, message: str) -> None:
    denoiser = wrap(lambda ids: returned, vocab_size=V, mask_token_id=MASK)
    with pytest.raises((TypeError, ValueError), match=message):
        denoiser(IDS)


def test_wrong_declarations_are_refused() -> None:
    with pytest.raises(ValueError, match="mask_token_id=7"):
        wrap(one_hot, vocab_size=V, mask_token_id=7)
    with pytest.raises(TypeError, match="takes no 'attention_mask'"):
        wrap(one_hot, vocab_size=V, mask_token_id=MASK, honours_padding=True)
    with pytest.raises(TypeError, match="must be a function"):
        wrap(3, vocab_size=V, mask_token_id=MASK)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no checkpoint format"):
        wrap(one_hot, vocab_size=V, mask_token_id=MASK).save_pretrained("x")


def test_wrong_inputs_are_refused() -> None:
    denoiser = wrap(one_hot, vocab_size=V, mask_token_id=MASK)
    with pytest.raises(ValueError, match=r"must be \[rows, positions\]"):
        denoiser(IDS[0])
    with pytest.raises(ValueError, match="as input_ids"):
        denoiser(IDS, torch.ones(1, 4))
    with pytest.raises(ValueError, match="one level per row"):
        denoiser(IDS, t=torch.zeros(3))
