"""Feed the recorded canvases of DiffusionGemma's cached loop to our passes.

Our encoder computes new columns in the first pass of the canvas behind them, where the released
loop has a pass of its own.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load_file

from dlm_sampling import ops
from dlm_sampling.caches import BlockCache
from dlm_sampling.denoisers import AutoDenoiser
from dlm_sampling.prediction.audit import Meter
from dlm_sampling.prediction.cached import CachedPasses, RunCache, Shown
from dlm_sampling.prediction.model import Counts, RunModel
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.prediction.rows import PassRows
from dlm_sampling.types import TokenLaw
from tests.parity.cached import FOLDER, MODELS, Heard, Replayed, span


def cases() -> list[dict[str, Any]]:
    file = FOLDER / "diffusion_gemma.json"
    return json.loads(file.read_text())["cases"] if file.is_file() else []


@torch.no_grad()
def replay(case: dict[str, Any]) -> Replayed:
    """Run the passes of a case on its canvases."""
    denoiser, args = AutoDenoiser.from_pretrained(MODELS / case["model"]), case["args"]
    tensors = load_file(FOLDER / "diffusion_gemma.logits.safetensors")
    model = RunModel(denoiser, TokenLaw(), Counts.zero(case["batch"], torch.device("cpu")))
    length, policy = len(case["final"][0]), BlockCache()
    kept, carries, left, result = None, model.first_carries(), 0, Replayed([], expected(case))
    with Heard(denoiser) as heard:
        for number, call in enumerate(case["calls"]):
            if call["kind"] != "step":
                carries, left = model.first_carries(), args["max_denoising_steps"]
                continue
            given = torch.tensor(call["canvas"])
            tokens = torch.nn.functional.pad(given, (0, length - given.shape[1]))
            column = torch.arange(length).expand(tokens.shape)
            start, stop = call["query"]
            window = (column >= start) & (column < stop)
            shown = Shown(tokens, column >= start, window, column < stop)
            if kept is None:
                kept = RunCache.empty(policy, window, shown.unknown, shown.real)
            rng = ops.Rng.from_seeds(range(case["batch"]))
            passes = CachedPasses(kept, shown, Meter(policy), rng)
            rows = PassRows(torch.arange(len(tokens)), columns=column[:, start:stop])
            predictor = Predictor(model, rows, carries, cache=passes)
            share = left / args["max_denoising_steps"]
            heat = args["t_min"] + (args["t_max"] - args["t_min"]) * share
            temperature = torch.full((len(tokens),), heat, dtype=torch.float64)
            (out,) = predictor.run(tokens, torch.ones_like(temperature), None, temperature)
            kept, carries, left = passes.cache, predictor.carries, left - 1
            compare(result, case, number, out.values, tensors)
    result.queries = heard.queries
    return result


def expected(case: dict[str, Any]) -> list[list[int]]:
    """The columns of every pass: those of the encoder with the next pass of the decoder."""
    made: list[list[int]] = []
    new: list[int] = []
    for call in case["calls"]:
        if call["kind"] == "step":
            made.append(new + span(call))
            new = []
        else:
            new = span(call)
    return made


def compare(
    result: Replayed, case: dict[str, Any], number: int, values: Any, tensors: dict[str, Any]
) -> None:
    """Compare the logits of a call, and the tokens that are accepted with the largest entries."""
    key = f"{case['id']}.{number}.logits"
    if key in tensors:
        gap = float((values - tensors[key]).abs().max())
        result.largest_difference = max(result.largest_difference, gap)
    after = case["calls"][number + 1] if number + 1 < len(case["calls"]) else None
    call, best = case["calls"][number], values.argmax(-1)
    if after is None or after["kind"] != "step":
        return
    start, stop = call["query"]
    moved = torch.tensor(after["canvas"])[:, start:stop]
    finished = (moved == torch.tensor(call["canvas"])[:, start:stop]).all(1)  # and waits
    accepted = torch.tensor(call["accepted"]).bool() & ~finished.unsqueeze(1)
    for row, column in ((best != moved) & accepted).nonzero().tolist():
        result.other_tokens.append((number, row, column))
