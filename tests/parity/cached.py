"""Feed the recorded canvases of cached loops to our passes, and run such loops as a whole."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.caches import (
    AnyPolicy,
    BlockCache,
    DualCache,
    Plan,
    PolicyBase,
    PrefixCache,
    View,
)
from dlm_sampling.denoisers import AutoDenoiser, Denoiser
from dlm_sampling.engine.sample import sample
from dlm_sampling.prediction.audit import Meter
from dlm_sampling.prediction.cached import CachedPasses, RunCache, Shown
from dlm_sampling.prediction.model import Counts, RunModel
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.samplers import SDAR, BlockRefinement, FastDLLM, FastDLLMFactor, LLaDA
from dlm_sampling.types import Pass, Sampler, TokenLaw
from tests.parity.common import in_step, row_calls
from tests.parity.folders import fixtures_folder

FOLDER = fixtures_folder() / "cached"
MODELS = fixtures_folder() / "models"
POLICIES: dict[str, AnyPolicy] = {
    "prefix": PrefixCache(),
    "dual": DualCache(),
    "block": BlockCache(commit="separate"),
}
ABOVE_ALL = 1.5
"""A threshold that no probability passes, where the fixture has 2."""
WITH_MASK = {"llada2_moe", "sdar"}
"""Models whose stand-ins' mask ids are those of the case, not of the config."""


def cases() -> list[dict[str, Any]]:
    """All cases of the folder, each with the name of its loop."""
    found: list[dict[str, Any]] = []
    for file in sorted(FOLDER.glob("*.json")):
        read = json.loads(file.read_text())
        found += [{**case, "loop": read["loop"], "file": file.stem} for case in read["cases"]]
    return [case for case in found if case["loop"] != "diffusion_gemma"]


@cache
def logits_of(stem: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{stem}.logits.safetensors")


@cache
def model(name: str, mask_id: int, block_length: int | None) -> Denoiser:
    own: dict[str, Any] = {"mask_token_id": mask_id} if name in WITH_MASK else {}
    if name in WITH_MASK:
        own["block_length"] = block_length
    return AutoDenoiser.from_pretrained(MODELS / name, **own)


def width(case: dict[str, Any]) -> int:
    """Columns of a block."""
    args = case["args"]
    if case["loop"] == "bd3lm_semi_ar":
        own = model(case["model"], case["mask_id"], None).block_length
        assert own is not None
        return own
    return args.get("block_length") or args["block_size"]


def denoiser_of(case: dict[str, Any]) -> Denoiser:
    return model(case["model"], case["mask_id"], width(case))


def policy_of(case: dict[str, Any]) -> AnyPolicy | None:
    """Our policy for the cache of a case; the block-causal loop without one has our exact cache."""
    if case["loop"] == "llada2_block":
        return BlockCache()
    if case["loop"] == "bd3lm_semi_ar" and "context_size" in case["args"]:
        return Sliding(case["args"]["context_size"])
    return POLICIES.get(case["cache"])


@dataclass(frozen=True)
class Sliding(PolicyBase):
    """The released sliding context: the oldest block leaves, and nothing is computed again."""

    context: int = 16

    name = "sliding"
    exact = True

    @property
    def separate(self) -> bool:
        return True

    def plan(self, state: None, view: View) -> tuple[None, Plan]:
        state, plan = BlockCache(commit="separate").plan(state, view)
        stop = (view.window.long().cumsum(1).argmax(1) + 1).unsqueeze(1)
        column = torch.arange(view.window.shape[1])
        # The pass of a finished block sees the context that ends with it.
        stop = stop - torch.where(plan.refresh, view.window.sum(1), 0).unsqueeze(1)
        return None, plan._replace(keys=plan.keys & (column >= stop - self.context))


class Heard:
    """Note the columns of every pass of a denoiser."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.queries: list[list[int]] = []
        self.tokens: list[list[list[int]]] = []
        self.denoiser, self.inner = denoiser, type(denoiser).forward

    def __enter__(self) -> Heard:
        self.denoiser.forward = self.forward  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        del self.denoiser.forward

    def forward(self, inputs: Pass) -> Any:
        length = inputs.tokens.shape[1]
        every = torch.arange(length) if inputs.cache is None else inputs.cache.query[0]
        self.queries.append([int(i) for i in every if int(i) < length])
        return self.inner(self.denoiser, inputs)


@dataclass
class Replayed:
    """What our passes gave on the recorded canvases."""

    queries: list[list[int]]
    recorded: list[list[int]]
    largest_difference: float = 0.0
    other_tokens: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])


def span(call: dict[str, Any]) -> list[int]:
    return list(range(*call["query"]))


def windows(case: dict[str, Any]) -> list[tuple[int, int]]:
    """The block of every call that a decision is read from."""
    found: list[tuple[int, int]] = []
    size, block, prompt = width(case), -1, len(case["prompt"][0])
    for call in decisions(case):
        if case["cache"] in ("prefix", "dual") or case["loop"].startswith("fast_dllm"):
            block += call["kind"] == "refresh"
            if case["cache"] == "none":
                masks = torch.tensor(call["canvas"]) == case["mask_id"]
                first = int(masks.any(0).long().argmax())
                block = (first - prompt) // size
            found.append((prompt + block * size, prompt + (block + 1) * size))
        else:
            found.append((call["query"][1] - size, call["query"][1]))
    return found


def decisions(case: dict[str, Any]) -> list[dict[str, Any]]:
    return [call for call in case["calls"] if call["kind"] not in ("prefill", "store")]


@torch.no_grad()
def replay(case: dict[str, Any]) -> Replayed:
    """Feed the recorded canvases to our passes."""
    denoiser, policy = denoiser_of(case), policy_of(case)
    shift, denoiser.shift = denoiser.shift, 0  # the recorded logits are those before the shift
    mask, tensors = case["mask_id"], logits_of(case["file"])
    recorded = [span(call) for call in expected_calls(case)]
    run = RunModel(denoiser, TokenLaw(), Counts.zero(case["batch"], torch.device("cpu")))
    rows, kept, last = torch.arange(case["batch"]), None, None
    result = Replayed([], recorded)
    numbers = [i for i, c in enumerate(case["calls"]) if c["kind"] not in ("prefill", "store")]
    with Heard(denoiser) as heard:
        for number, call, (start, stop) in zip(
            numbers, decisions(case), windows(case), strict=True
        ):
            tokens = torch.tensor(call["canvas"])
            column = torch.arange(tokens.shape[1])
            window = ((column >= start) & (column < stop)).expand(tokens.shape)
            shown = Shown(tokens, tokens == mask, window, torch.ones_like(window))
            first, end = call["query"]
            if policy is None or case["loop"] == "llada2_block":
                first = start if case["loop"] == "llada2_block" else first
            asked = torch.arange(first, end).expand(len(tokens), -1)
            passes = None
            if policy is not None:
                if kept is None:
                    kept = RunCache.empty(policy, window, shown.unknown, shown.real)
                elif last != (start, stop):
                    kept = kept.enter(torch.ones_like(rows, dtype=torch.bool))
                passes = CachedPasses(
                    kept, shown, Meter(policy), ops.Rng.from_seeds(range(len(tokens)))
                )
            horizon = None if call["kind"] != "full" or passes is not None else rows * 0 + end
            own = PassRows(rows, horizon=horizon, columns=asked)
            time = torch.full((len(rows),), 0.5, dtype=torch.float64)
            (out,) = Predictor(run, own, cache=passes).run(tokens, time, None)
            kept, last = None if passes is None else passes.cache, (start, stop)
            values = out.values if out.head is None else out.head(out.values)
            note(result, case, number, values, first, shift, tensors)
    denoiser.shift = shift
    result.queries = heard.queries
    return result


def expected_calls(case: dict[str, Any]) -> list[dict[str, Any]]:
    """The recorded calls that our loop makes too: nobody reads what is stored of a last block.

    The loop without a cache has our exact cache: the first call of a block computes what is before
    it, from the block before on, and the block; later calls the block alone.
    """
    calls = case["calls"]
    if case["loop"] == "llada2_block":
        size, seen, made = width(case), 0, []
        for call in calls:
            stop = call["query"][1]
            made.append({"query": [seen, stop]})
            seen = stop - size
        return made
    while calls[-1]["kind"] == "store":
        calls = calls[:-1]
    return calls


def note(
    result: Replayed,
    case: dict[str, Any],
    number: int,
    values: Tensor,
    first: int,
    shift: int,
    tensors: dict[str, Tensor],
) -> None:
    """Compare the logits of a call, and the tokens that it writes with their largest entries."""
    call, key = case["calls"][number], f"{case['id']}.{number}.logits"
    if key in tensors:
        theirs = tensors[key][:, first - call["query"][0] :]
        result.largest_difference = max(
            result.largest_difference, float((values - theirs).abs().max())
        )
    banned = values.clone()
    banned[..., case["mask_id"]] = -torch.inf
    best = banned.argmax(-1)
    for row, written in enumerate(call["commits"]):
        for column, token in written:
            if ended(case, call, row, column) or (token == 0 and quirk_of_zero(case)):
                continue
            place = column - shift - first
            if int(best[row, place]) != token:
                result.other_tokens.append((number, row, column))


def ended(case: dict[str, Any], call: dict[str, Any], row: int, column: int) -> bool:
    """Whether a column was overwritten because an end token stands left of it."""
    end = case["args"].get("eos_id")
    if end is None:
        return False
    ends = [c for c, token in call["commits"][row] if token == end]
    known = [c for c, token in enumerate(call["canvas"][row]) if token == end]
    return any(c < column for c in ends + known)


def quirk_of_zero(case: dict[str, Any]) -> bool:
    """Whether the last step of the case turns the masks left into token 0."""
    return case["quirk"] and case["loop"] == "bd3lm_semi_ar"


@dataclass
class Ran:
    """A whole run of ours, in the format of the fixture."""

    final: list[list[int]]
    canvases: list[list[list[int]]]
    recorded_canvases: list[list[list[int]]]
    columns: int
    recorded_columns: int


def sampler_of(case: dict[str, Any]) -> Sampler[Any] | None:
    """Our sampler for the rule of a case, None where the rule needs recorded random numbers."""
    args, loop = case["args"], case["loop"]
    if loop == "sdar_block" and "stopping_criteria_idx" not in args:
        strategy = args["remasking_strategy"].removeprefix("low_confidence_")
        return SDAR(strategy, args.get("confidence_threshold") or ABOVE_ALL)
    if loop == "llada2_block":
        return BlockRefinement(min(args["threshold"], ABOVE_ALL))
    if not loop.startswith("fast_dllm_llada") or "early_stop" in args:
        return None
    if "factor" in args:
        return FastDLLMFactor(args["factor"], released=bool(case["quirk"]))
    return FastDLLM(args["threshold"]) if "threshold" in args else LLaDA()


def runs(case: dict[str, Any]) -> bool:
    """Whether the case also runs as a whole."""
    args = case["args"]
    other = case["quirk"] and "factor" not in args and case["quirk_scope"] != "nfe"
    heated = args.get("temperature", 1.0) != 1.0  # an argmax with the confidence of a heated law
    return sampler_of(case) is not None and not other and not heated


def run(case: dict[str, Any]) -> Ran:
    """Run our sampler with our cache."""
    args, sampler = case["args"], sampler_of(case)
    assert sampler is not None
    prompt, length = torch.tensor(case["prompt"]), len(case["final"][0])
    tokens = torch.nn.functional.pad(prompt, (0, length - prompt.shape[1]), value=case["mask_id"])
    aligned = case["loop"] in ("sdar_block", "llada2_block")
    per_block = args.get("denoising_steps") or args.get("steps_per_block")
    law = TokenLaw(0.0, top_k=args.get("top_k") or None, top_p=args.get("top_p"))
    out = sample(
        denoiser_of(case),
        sampler,
        tokens,
        torch.arange(length).expand(tokens.shape) >= prompt.shape[1],
        seeds=range(len(tokens)),
        steps=args.get("steps"),
        steps_per_block=per_block,
        block_length=width(case),
        align_blocks=aligned,
        law=law if aligned else None,
        return_trajectory=True,
        cache=policy_of(case) or "none",
    )
    assert out.trajectory is not None
    recorded = [c for c in decisions(case) if not c.get("wasted")]
    rows = [row_calls(out.trajectory, row) for row in range(len(tokens))]
    made = [c for c in expected_calls(case) if not c.get("wasted")]
    own = round(float(out.work[0]) * length)
    alone = len(tokens) == 1  # in a batch, released loops run finished rows on
    return Ran(
        out.tokens.tolist(),
        in_step(rows),
        [c["canvas"] for c in recorded],
        own if alone else 0,
        sum(len(span(c)) for c in made) if alone else 0,
    )
