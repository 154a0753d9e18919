"""Time cache policies on random networks in the layouts of LLaDA and SDAR.

    python -m dlm_eval.caches.speed --out eval/results/kv_cache.json --page eval/CACHES.md

Width 512, 8 layers, a prompt of 512 tokens, 256 new ones in blocks of 32; every policy with the
same weights and the same number of steps, beside the arithmetic of the released loop with the same
cache.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from dlm_eval.caches.loops import released_loop
from dlm_eval.caches.page import page as page_of
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


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")],
    steps: Annotated[int, typer.Option(min=1, help="Passes of a block.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Runs, of which the fastest counts.")] = 1,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the batch.")] = 1,
    page: Annotated[Path | None, typer.Option(help="Page to write (markdown).")] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small sizes, to try the script.")] = False,
) -> None:
    """Measure all policies and write the file."""
    check_result(out, *([] if page is None else [page]))
    torch.set_num_threads(1)
    width, layers, prompt, new = (64, 2, 64, 64) if tiny else (WIDTH, LAYERS, PROMPT, NEW)
    ids, editable = canvases(rows, prompt, new)
    blocks, found = new // BLOCK, list[dict[str, Any]]()
    sizes = {
        "width": width,
        "layers": layers,
        "prompt": prompt,
        "new": new,
        "block": BLOCK,
        "steps_per_block": steps,
        "rows": rows,
        "vocab": VOCAB,
        "threads": 1,
    }
    machine = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__}

    def note(record: dict[str, Any]) -> None:
        found.append(record)
        command = command_of("dlm_eval.caches.speed")
        table = {"command": command, "sizes": sizes, "machine": machine, "runs": found}
        out.write_text(json.dumps(table, indent=1) + "\n")
        if page is not None:
            page.write_text(page_of(table), encoding="utf-8")
        print(json.dumps(record), flush=True)

    for layout, policies in (
        ("sdar", ("block", "none")),
        ("llada", ("dual", "prefix", "none", "vicinity", "dkv")),
    ):
        denoiser = network(layout, width, layers)

        def run(cache: str, denoiser: Denoiser = denoiser) -> Any:
            return sample(
                denoiser, samplers.create("llada"), ids, editable, seeds=range(rows),
                steps=blocks * steps, block_length=BLOCK, align_blocks=True, cache=cache,
            )  # fmt: skip

        for policy in policies:
            seconds, done = timed(lambda policy=policy: run(policy), repeats)
            record = {
                "layout": layout, "loop": "dlm_sampling", "cache": policy, "seconds": seconds,
                "nfe": int(done.nfe[0]), "work": float(done.work[0]),
            }  # fmt: skip
            note(record)
            if layout == "llada" and policy in ("dual", "prefix"):
                assert denoiser.module is not None
                seconds, tokens = timed(
                    lambda policy=policy, module=denoiser.module: released_loop(
                        module, ids, prompt, BLOCK, steps, VOCAB - 1, policy
                    ),
                    repeats,
                )
                same = float((tokens == done.tokens).float().mean())
                record = {
                    "layout": layout, "loop": "released", "cache": policy, "seconds": seconds,
                    "same_tokens": same,
                }  # fmt: skip
                note(record)


if __name__ == "__main__":
    start(main)
