"""`BlockRefinementScheduler.step` on fixed logits: our step on a denoiser that returns them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.samplers import BlockRefinement
from dlm_sampling.testing import FixtureToy
from dlm_sampling.testing.oracles import uniform_commits
from dlm_sampling.types import Canvas, Clock, DenoiserOutput, Pass, TokenLaw
from tests.parity.common import Replay, toy_of


class Fixed(Denoiser):
    """The same logits [B, W, V] for every canvas."""

    def __init__(self, logits: Tensor, mask_token_id: int) -> None:
        super().__init__(vocab_size=logits.shape[-1], mask_token_id=mask_token_id)
        self.values = logits

    def forward(self, inputs: Pass) -> DenoiserOutput:
        return DenoiserOutput(self.values)


def run(case: dict[str, Any], toys: dict[str, FixtureToy]) -> Replay:
    """Replay one case."""
    args = case["args"]
    logits = toy_of(case, toys).logits(torch.tensor(case["inputs"]["logits_canvas"]))
    logits = logits[:, args["block_start"] : args["block_start"] + args["block_length"]]
    return (uniform if args.get("uniform") else masked)(case, logits)


def masked(case: dict[str, Any], logits: Tensor) -> Replay:
    """Steps with masks."""
    args, mask = case["args"], case["mask_id"]
    tokens = torch.tensor(case["inputs"]["block0"])
    prompt = torch.tensor(case["inputs"].get("prompt_mask", [0] * tokens.shape[1])).bool()
    start = torch.zeros(len(tokens), dtype=torch.int64)
    canvas = Canvas(tokens, tokens == mask, (~prompt).expand(tokens.shape), start, mask)
    sampler = BlockRefinement(args["threshold"], args.get("editing_threshold"))
    predict = Predictor.alone(
        Fixed(logits, mask),
        TokenLaw(temperature=0.0, suppressed=(mask,) if case["mask_logit"] is not None else ()),
        torch.ones_like(tokens).bool(),
        eager=True,
    )
    rng, state, steps = (
        ops.Rng.from_seeds(range(len(tokens))),
        sampler.init(canvas),
        start + args["num_inference_steps"],
    )
    seen: list[Tensor] = []
    transfer: list[Tensor] = []
    edits: list[Tensor] = []
    for n in range(args["num_calls"]):
        seen.append(canvas.tokens)
        state, step = sampler.step(state, canvas, Clock(start + n, steps), predict, rng)
        transfer.append(canvas.unknown & ~step.unknown)
        edits.append((step.tokens != canvas.tokens) & ~canvas.unknown)
        canvas = canvas._replace(tokens=step.tokens, unknown=step.unknown)
    expect = {"transfer_index": lists(transfer), "editing_transfer_index": lists(edits)}
    return Replay(
        torch.stack(seen).tolist(), canvas.tokens.tolist(), int(predict.nfe.max()), expect
    )


def uniform(case: dict[str, Any], logits: Tensor) -> Replay:
    """Steps without masks: only what is committed is recorded."""
    args = case["args"]
    confidence = logits.softmax(-1).amax(-1)
    committed = torch.zeros_like(confidence, dtype=torch.bool)
    start = torch.zeros(len(confidence), dtype=torch.int64)
    transfer: list[Tensor] = []
    for n in range(args["num_calls"]):
        clock = Clock(start + n, start + args["num_inference_steps"])
        transfer.append(uniform_commits(confidence, committed, clock, args["threshold"]))
        committed = committed | transfer[-1]
    expect = {
        "transfer_index": lists(transfer),
        "editing_transfer_index": lists([t & False for t in transfer]),
    }
    return Replay([], [], len(transfer), expect)


def lists(masks: list[Tensor]) -> list[list[list[int]]]:
    """0/1 lists of bool masks."""
    return torch.stack(masks).long().tolist()
