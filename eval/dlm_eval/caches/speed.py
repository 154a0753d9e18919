"""Time cache policies on random networks in the layouts of LLaDA and SDAR.

    python -m dlm_eval.caches.speed --out eval/results/kv_cache.json --page eval/CACHES.md

Width 512, 8 layers, a prompt of 512 tokens, 256 new ones in blocks of 32; every policy with the
same weights and the same number of steps, beside the arithmetic of the released loop with the same
cache.  A killed run goes on with the same command.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from dlm_eval.caches.loops import released_loop
from dlm_eval.caches.page import page as page_of
from dlm_eval.journal import Journal
from dlm_eval.program import check_result, command_of, start
from dlm_sampling import sample, samplers
from dlm_sampling.denoisers import Denoiser, LLaDADenoiser, SDARDenoiser

PROMPT, NEW, BLOCK, VOCAB = 512, 256, 32, 8192
WIDTH, LAYERS = 512, 8


def network(layout: str, width: int, layers: int) -> Denoiser:
    """Build a random network in the layout of a release."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "head_dim": 64,
        "max_position_embeddings": 4096,
    }
    if layout == "llada":
        model: Any = LlamaForCausalLM(LlamaConfig(**sizes))
        return LLaDADenoiser(model, mask_token_id=VOCAB - 1)
    stock: Any = Qwen3ForCausalLM(Qwen3Config(**sizes))
    return SDARDenoiser(stock, mask_token_id=VOCAB - 1, block_length=BLOCK)


def canvases(rows: int, prompt: int, new: int) -> tuple[Tensor, Tensor]:
    """Return random prompts with masks behind them, and the positions to write."""
    made = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCAB - 1, (rows, prompt + new), generator=made)
    ids[:, prompt:] = VOCAB - 1
    return ids, torch.arange(prompt + new).expand(rows, -1) >= prompt


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the least processor seconds of some runs, and the last result.

    One thread computes, so that these are seconds of a machine that does nothing else.
    """
    best, out = float("inf"), None
    for _ in range(repeats):
        begun = time.process_time()
        out = run()
        best = min(best, time.process_time() - begun)
    return best, out


CELLS = (
    *(("sdar", cache) for cache in ("block", "none")),
    *(
        ("llada", cache)
        for cache in ("dual", "prefix", "none", "vicinity", "dkv", "dpad", "adaptive", "dllm")
    ),
)
"""Layouts and the policies that are timed on them, one after the other."""

Runs = list[dict[str, Any]]


def measured(journal: Journal, measure: Callable[[str, str], Runs]) -> Runs:
    """Return the runs of all cells; those that the journal has are not measured again."""
    known = {(record["layout"], record["cache"]): record for record in journal.records}
    found: Runs = []
    for layout, cache in CELLS:
        if (layout, cache) not in known:
            record = {"layout": layout, "cache": cache, "runs": measure(layout, cache)}
            journal.append(record)
            known[layout, cache] = record
        found += known[layout, cache]["runs"]
    return found


@dataclass(frozen=True)
class Sizes:
    """Hold the numbers of a run of the program."""

    width: int
    layers: int
    prompt: int
    new: int
    block: int
    steps_per_block: int
    rows: int
    vocab: int
    threads: int

    def runs(self, denoiser: Denoiser, layout: str, cache: str, repeats: int) -> Runs:
        """Time a policy, and the released loop where it has the same."""
        ids, editable = canvases(self.rows, self.prompt, self.new)
        steps = self.new // self.block * self.steps_per_block

        def run() -> Any:
            return sample(
                denoiser, samplers.create("llada"), ids, editable, seeds=range(self.rows),
                steps=steps, block_length=self.block, align_blocks=True, cache=cache,
            )  # fmt: skip

        seconds, done = timed(run, repeats)
        own = {
            "layout": layout, "loop": "dlm_sampling", "cache": cache, "seconds": seconds,
            "nfe": int(done.nfe[0]), "work": float(done.work[0]),
        }  # fmt: skip
        if layout != "llada" or cache not in ("dual", "prefix"):
            return [own]
        released = partial(
            released_loop, denoiser.module, ids, self.prompt, self.block, self.steps_per_block,
            self.vocab - 1, cache,
        )  # fmt: skip
        seconds, tokens = timed(released, repeats)
        same = float((tokens == done.tokens).float().mean())
        theirs = {
            "layout": layout, "loop": "released", "cache": cache, "seconds": seconds,
            "same_tokens": same,
        }  # fmt: skip
        return [own, theirs]


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON); the same command resumes.")],
    steps: Annotated[int, typer.Option(min=1, help="Passes of a block.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Runs, of which the fastest counts.")] = 1,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the batch.")] = 1,
    page: Annotated[Path | None, typer.Option(help="Page to write (markdown).")] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small sizes, to try the script.")] = False,
) -> None:
    """Measure all policies and write the file.

    What is measured stands in a file beside it (NAME.partial.jsonl) until all is.
    """
    check_result(out, *([] if page is None else [page]))
    torch.set_num_threads(1)
    width, layers, prompt, new = (64, 2, 64, 64) if tiny else (WIDTH, LAYERS, PROMPT, NEW)
    sizes = Sizes(width, layers, prompt, new, BLOCK, steps, rows, VOCAB, 1)
    machine = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__}
    facts = {"sizes": asdict(sizes), "machine": machine}
    journal = Journal(out.with_name(f"{out.name}.partial.jsonl"), {**facts, "repeats": repeats})
    made: dict[str, Denoiser] = {}

    def measure(layout: str, cache: str) -> Runs:
        if layout not in made:
            made.clear()
            made[layout] = network(layout, width, layers)
        runs = sizes.runs(made[layout], layout, cache, repeats)
        for record in runs:
            print(json.dumps(record), flush=True)
        return runs

    runs = measured(journal, measure)
    table = {"command": command_of("dlm_eval.caches.speed"), **facts, "runs": runs}
    out.write_text(json.dumps(table, indent=1) + "\n")
    if page is not None:
        page.write_text(page_of(table), encoding="utf-8")
    journal.path.unlink()


if __name__ == "__main__":
    start(main)
