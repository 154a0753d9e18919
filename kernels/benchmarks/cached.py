"""Whole runs with every cache policy at the sizes of 8B models, beside what the hardware allows.

Random weights, in the layouts of LLaDA-8B (full attention) and of SDAR-8B (block-causal), a prompt
of 512 tokens and as many new ones in blocks of 32.  Each case has the time that a roofline gives:

    flop(q)  = B [q (2 p + 4 T d_a N) + 2 r d V]     q columns of T, r of them read by the head
    bytes    = 2 (p + d V) + B T kv                  p parameters of the layers, kv bytes per column
    seconds  = max(flop / 989e12, bytes / 4.8e12)    an H200's bfloat16 peak and bandwidth

(dLLM-Cache: q is another number behind the first layer), but where columns follow from the values;
and, for the policies that it has, the time of the released loop with the same weights.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from dlm_eval.caches.loops import released_loop
from machine import Report
from torch import Tensor

from dlm_sampling import caches, sample, samplers
from dlm_sampling.denoisers import Denoiser, LLaDADenoiser, SDARDenoiser

FLOPS, BANDWIDTH = 989e12, 4.8e12  # of an H200
STEPS = 8  # passes of a block


@dataclass(frozen=True)
class Size:
    """A network, and the run that is timed."""

    layout: Literal["llada", "sdar"]
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    vocab: int
    prompt: int = 512
    new: int = 512
    block: int = 32
    rows: tuple[int, ...] = (1, 16)

    @property
    def parameters(self) -> int:
        """Parameters of the layers, p."""
        heads = 2 * self.heads + 2 * self.kv_heads
        return self.layers * self.width * (heads * self.head_width + 3 * self.hidden)

    @property
    def total(self) -> int:
        """Columns of the canvas, T."""
        return self.prompt + self.new


SIZES = (
    Size("llada", 32, 4096, 32, 32, 128, 12_288, 126_464),
    Size("sdar", 36, 4096, 32, 8, 128, 12_288, 151_936),
)
TINY = (
    Size("llada", 2, 16, 2, 2, 8, 32, 40, 5, 8, 4, (1,)),
    Size("sdar", 2, 16, 2, 1, 8, 32, 40, 5, 7, 4, (1,)),
)
POLICIES: dict[str, tuple[str | caches.AnyPolicy, ...]] = {
    "llada": (
        "none", "prefix", "dual", caches.VicinityCache(warm_up=1),
        "dkv", "dpad", "adaptive", "dllm",
    ),
    "sdar": ("none", "block"),
}  # fmt: skip


def pass_seconds(
    size: Size, rows: int, query: int, seen: int | None = None, behind: int | None = None
) -> float:
    """Seconds of a pass over some columns of each row.

    Args:
        size: the network.
        rows: rows of the batch.
        query: columns that the first layer computes.
        seen: keys that they see; None for those of the canvas.
        behind: columns that the layers behind the first compute, None for all; of the others
            these make values only, and what a layer added to them is read from memory.
    """
    seen = size.total if seen is None else seen
    behind = query if behind is None else behind
    attention = 4 * seen * size.heads * size.head_width
    column = 2 * size.parameters / size.layers + attention  # of a layer
    value = 2 * size.width * size.kv_heads * size.head_width
    head = size.width * size.vocab
    later = behind * column + (query - behind) * value
    layers = query * column + (size.layers - 1) * later
    flop = rows * (layers + 2 * min(query, size.block) * head)
    stored = seen * 4 * size.kv_heads * size.head_width + (query - behind) * 2 * size.width
    memory = 2 * (size.parameters + head) + rows * stored * size.layers
    return max(flop / FLOPS, memory / BANDWIDTH)


def run_seconds(size: Size, rows: int, name: str, steps: int) -> float | None:
    """Seconds of a run with a policy; None for one whose columns follow from the values.

    Args:
        size: the network and the run.
        rows: rows of the batch.
        name: "vicinity" has 16 columns on both sides and one pass over all columns per block;
            "dkv" and "dllm" refresh as they do by default.
        steps: passes of a block.
    """
    total, width = size.total, size.block
    starts = range(size.prompt, total, width)
    found = 0.0
    for number, start in enumerate(starts):
        left = total - start  # masks at the start of the block
        written = width // steps
        passes: list[tuple[int, int | None]] = [(total, None)]
        if name == "none":
            passes *= steps
        elif name == "prefix":
            passes += [(left, None)] * (steps - 1)
        elif name in ("dual", "vicinity"):
            around = 32 if name == "vicinity" else 0
            passes += [(min(width + around, total), None)] * (steps - 1)
        elif name == "block":
            seen = start + width
            first = 2 * width if number else seen
            passes = [(first, seen), *[(width, seen)] * (steps - 1)]
        elif name == "dkv":
            refreshed = [(number * steps + step) % 8 == 0 for step in range(steps)]
            passes = [
                (total if full else left - step * written + written, None)
                for step, full in enumerate(refreshed)
            ]
        elif name == "dllm":
            found += sum(_dllm_seconds(size, rows, number * steps + step) for step in range(steps))
            continue
        else:
            return None
        found += sum(pass_seconds(size, rows, query, seen) for query, seen in passes)
    return found


def _dllm_seconds(size: Size, rows: int, number: int) -> float:
    """Seconds of one pass of the run with dLLM-Cache, which counts them from 0."""
    rule = caches.DLLMCache()
    prompt = size.prompt if number % rule.prompt_every == 0 else 0
    share = 1.0 if number % rule.every == 0 else rule.share
    return pass_seconds(size, rows, prompt + size.new, None, prompt + int(size.new * share))


def network(size: Size, report: Report) -> Denoiser:
    """A random network of the layout."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": size.vocab,
        "hidden_size": size.width,
        "intermediate_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_width,
        "max_position_embeddings": 4096,
    }
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if report.dry else torch.bfloat16)
    try:
        with torch.device(report.device):
            if size.layout == "llada":
                llada: Any = LlamaForCausalLM(LlamaConfig(**sizes))
                return LLaDADenoiser(llada, mask_token_id=size.vocab - 1)
            stock: Any = Qwen3ForCausalLM(Qwen3Config(**sizes))
            return SDARDenoiser(stock, mask_token_id=size.vocab - 1, block_length=size.block)
    finally:
        torch.set_default_dtype(before)


@torch.no_grad()
def run(report: Report) -> None:
    """Every network, number of rows and policy."""
    for size in TINY if report.small else SIZES:
        denoiser = network(size, report)
        for rows in size.rows:
            of_policies(report, size, denoiser, rows)
        del denoiser


def of_policies(report: Report, size: Size, denoiser: Denoiser, rows: int) -> None:
    """The policies of a layout, "none" first; with recorded steps where the cache is exact."""
    made = torch.Generator().manual_seed(1)
    ids = torch.randint(0, size.vocab - 1, (rows, size.total), generator=made)
    ids[:, size.prompt :] = size.vocab - 1
    editable = torch.arange(size.total).expand(rows, -1) >= size.prompt
    wanted: Tensor | None = None
    if not report.late:  # loads the libraries, and fills the allocator
        seconds(report, size, denoiser, (ids, editable), "none", False, steps=1)
    for cache in POLICIES[size.layout]:
        for graph in (False, True) if cache == "block" and not report.dry else (False,):
            if report.late:
                return
            spent, out = seconds(report, size, denoiser, (ids, editable), cache, graph)
            wanted = out.tokens if wanted is None else wanted
            name = cache if isinstance(cache, str) else cache.name
            expected = run_seconds(size, rows, name, min(STEPS, size.block))
            report.add(
                name,
                layout=size.layout,
                rows=rows,
                graph=graph,
                eager_us=spent * 1e6,
                roofline_us=None if expected is None else expected * 1e6,
                work=float(out.work.mean()),
                same_tokens=float((out.tokens == wanted).double().mean()),
            )
    for cache in ("prefix", "dual") if size.layout == "llada" else ():
        if not report.late:
            begun = clock(report)
            steps = min(STEPS, size.block)
            released_loop(
                denoiser.module, ids.to(report.device), size.prompt, size.block, steps,
                size.vocab - 1, cache,
            )  # fmt: skip
            label = {"layout": size.layout, "rows": rows, "graph": False}
            report.add(f"released loop, {cache}", **label, eager_us=(clock(report) - begun) * 1e6)


def seconds(
    report: Report,
    size: Size,
    denoiser: Denoiser,
    texts: tuple[Tensor, Tensor],
    cache: str | caches.AnyPolicy,
    graph: bool,
    steps: int = STEPS,
) -> tuple[float, Any]:
    """Wall time of a run, and its output."""
    ids, editable = texts
    begun = clock(report)
    out = sample(
        denoiser, samplers.create("llada"), ids, editable, seeds=range(len(ids)),
        steps_per_block=min(steps, size.block), block_length=size.block,
        align_blocks=size.layout == "sdar", cache=cache, cuda_graph=graph,
    )  # fmt: skip
    return clock(report) - begun, out


def clock(report: Report) -> float:
    """Seconds, after the device has done its work."""
    if not report.dry:
        torch.cuda.synchronize()
    return time.perf_counter()
