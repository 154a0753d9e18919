"""What is behind an end-of-text is written with it: tokens, laws, log-probabilities and passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import generate, replay, sample, samplers, wrap
from dlm_sampling.processes import Uniform
from dlm_sampling.types import TokenLaw

END, MASK, LENGTH = 2, 3, 6
TABLE = torch.randn(LENGTH, 3, generator=torch.Generator().manual_seed(3))


def network(ids: Tensor) -> Tensor:
    """A law of each position that depends on the ends of text in the canvas."""
    rows = torch.nn.functional.pad(TABLE[: ids.shape[1]], (0, 1), value=-20.0)
    return rows * (2 - (ids == END).sum(1).view(-1, 1, 1))


DENOISER = wrap(network, vocab_size=4, mask_token_id=MASK, eos_token_id=END)


def run(name: str, *, fill: bool, **options: Any) -> Any:
    rows = 12
    editable = torch.ones(rows, LENGTH, dtype=torch.bool)
    tokens = torch.full((rows, LENGTH), END)  # fixed ends are part of the prompt
    editable[:, 0] = False
    return sample(
        options.pop("denoiser", DENOISER), samplers.create(name), tokens, editable,
        seeds=range(rows), law=TokenLaw(), stop_token_ids=(END,), fill_behind_stop=fill, **options,
    )  # fmt: skip


def texts(tokens: Tensor) -> list[list[int]]:
    """The written tokens of each row up to its first end."""
    rows = [[int(token) for token in row] for row in tokens[:, 1:]]
    return [row[: row.index(END) + 1] if END in row else row for row in rows]


@pytest.mark.slow
def test_everything_behind_an_end_is_an_end_and_is_no_draw() -> None:
    out = run("llada-random", fill=True, return_trajectory=True)
    filled = 0
    for row in range(len(out.tokens)):
        for event, i in out.trajectory.steps(row):
            tokens, unknown = event.tokens[i, 1:], event.unknown[i, 1:]
            ends = ((tokens == END) & ~unknown).nonzero().flatten().tolist()
            if ends:
                assert (
                    tokens[ends[0] :]
                    .eq(END)
                    .logical_or(event.before[i, 1:][ends[0] :] < MASK)
                    .all()
                )
                assert not bool(unknown[ends[0] :].any())
            behind = event.written[i].clone()
            drawn = event.logprob[i] != 0
            assert int((behind & drawn).sum()) == 1  # one draw a step, by the law of its canvas
            place = int((behind & drawn).nonzero()[0])
            log_p = network(event.before[i : i + 1])[0, place, :MASK].double().log_softmax(0)
            token = int(event.tokens[i, place])
            assert abs(float(log_p[token]) - float(event.logprob[i, place])) < 1e-5
            filled += int((behind & ~drawn).sum())
    assert filled >= 10
    plain = run("llada-random", fill=False)
    assert int(out.nfe.sum()) < int(plain.nfe.sum())
    assert texts(out.tokens) != texts(plain.tokens)  # the law is another one


@pytest.mark.slow
def test_from_left_to_right_the_text_is_the_same() -> None:
    order = {"sampler": samplers.create("llada", order="left_to_right")}
    options: dict[str, Any] = {**order, "max_new_tokens": 5, "seed": 4, "temperature": 1.0}
    fill, stop = (
        generate(DENOISER, [[0]] * 8, eos=eos, return_rollout=True, **options)
        for eos in ("fill", "stop")
    )
    assert fill.rollout is not None
    assert fill.token_ids == stop.token_ids
    assert torch.equal(fill.nfe, stop.nfe)
    torch.testing.assert_close(fill.logprobs.sum(1), stop.logprobs.sum(1))
    torch.testing.assert_close(
        replay(DENOISER, fill.rollout).logprob, fill.logprobs, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("remdm-cap", {}, "may change an end-of-text"),
        ("llada", {"cuda_graph": True}, "goes without cuda_graph=True"),
        (
            "ancestral",
            {"denoiser": wrap(network, vocab_size=3, mask_token_id=None,
                              process=Uniform())},
            "without masks",
        ),
    ],
)  # fmt: skip
def test_it_is_refused_where_an_end_may_change(
    name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(name, fill=True, **options)
