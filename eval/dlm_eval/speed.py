"""What mixed prompt lengths cost and compiled layers save, in processor time, on tiny-books.

Rows of mixed lengths run in length buckets: eight rows, seven of them short, should take what the
seven and the long one take alone.  Layers compiled by the user's own torch.compile should take
effect, with the same tokens.

Run: python -m dlm_eval.speed [--repeats N] [--out FILE]
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dlm_eval.program import check_result, command_of, start
from dlm_sampling import AutoDenoiser, Denoiser, generate

WORDS = ("a", "an", "the", "one", "no", "my", "his")
SHORT = [f"Once upon a time there was {word}" for word in WORDS]
LONG = ["The old miller had gone out to look for his sheep in the valley. " * 14]
WRITTEN, STEPS = 16, 8
COPIES, LONGER = 4, 112


def least(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The least seconds of processor time of each call, in alternation, after a first round."""
    found: dict[str, float] = {}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            spent = time.process_time() - begun
            if turn:
                found[name] = min(spent, found.get(name, spent))
    return found


def mixed_lengths(denoiser: Denoiser, repeats: int) -> dict[str, float]:
    """Seconds of seven short prompts, of a long one and of all, and the ratio of the short ones."""

    def run(prompts: list[str]) -> Callable[[], Any]:
        return lambda: generate(
            denoiser, prompts, sampler="llada", max_new_tokens=WRITTEN, steps=STEPS, seed=0
        )

    found = least({"short": run(SHORT), "long": run(LONG), "all": run(SHORT + LONG)}, repeats)
    return found | {"short_beside_long": (found["all"] - found["long"]) / found["short"]}


def compiled_layers(eager: Denoiser, compiled: Denoiser, repeats: int) -> dict[str, Any]:
    """Seconds of a run with eager and with compiled layers, their ratio, and whether tokens agree.

    Args:
        eager: the denoiser.
        compiled: the same one, whose module is compiled in its first run.
        repeats: rounds.
    """

    def run(denoiser: Denoiser) -> Any:
        return generate(
            denoiser, ["Once upon a time"] * COPIES, sampler="llada", max_new_tokens=LONGER,
            steps=STEPS, seed=[0, 1, 2, 3],
        )  # fmt: skip

    found = least({"eager": lambda: run(eager), "compiled": lambda: run(compiled)}, repeats)
    same = torch.equal(run(eager).sequences, run(compiled).sequences)
    return found | {"times_faster": found["eager"] / found["compiled"], "same_tokens": same}


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")] = Path(
        "eval/results/speed_cpu.json"
    ),
    repeats: Annotated[int, typer.Option(min=1, help="Rounds that are counted.")] = 5,
) -> None:
    """Measure both, and write the result file."""
    check_result(out)
    torch.set_num_threads(1)
    load, denoiser = os.getloadavg()[0], AutoDenoiser.from_pretrained("tiny-books")
    compiled = AutoDenoiser.from_pretrained("tiny-books")
    module = compiled.module
    assert module is not None
    module.compile()
    result = {
        "command": command_of("dlm_eval.speed"),
        "model": "tiny-books",
        "cpu": platform.processor() or platform.machine(),
        "torch": str(torch.__version__),
        "load": load,
        "mixed_lengths": mixed_lengths(denoiser, repeats),
        "compiled_layers": compiled_layers(denoiser, compiled, repeats),
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"Wrote {out}")


if __name__ == "__main__":
    start(main)
