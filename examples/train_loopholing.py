"""Give a small sudoku model a latent state that outlives its samples, and measure what it is worth.

    python examples/train_loopholing.py train --out runs/sudoku4x4-loopholing
    python examples/train_loopholing.py compare --results runs/loopholing.json

A loopholing network reads E(x) + LN(h) and hands its last hidden states h on to the next step.
Training never unrolls a chain.  With probability p a canvas is read twice,

    h = f(E(x))  without gradient,    loss on g(f(E(x) + LN(h))),

otherwise once, with h = 0.  Jo et al. 2025, arXiv:2510.19304; here the choice is made per canvas.
A pass without gradient costs a third of one with it, so that training costs 1 + p/3 times as much.

`compare` trains the same network with and without state on the same grids in the same order, for
as many steps and for as much compute, and samples all of them with the same numbers of forward
passes.  It goes on where it was stopped, and more seeds can be added later.
"""

import json
import shlex
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from tqdm import tqdm
from train_sudoku import build_model, build_tokenizer, divergence, hide, train

from dlm_sampling import AutoDenoiser, Denoiser, generate, wrap
from dlm_sampling.denoisers import LoopholingDenoiser, MaskedLMDenoiser
from dlm_sampling.testing.sudoku import CELLS, MASK, SudokuOracle, all_grids, is_valid

ARMS = {
    "base": (0.0, 1.0),
    "base, equal compute": (0.0, 1.3),
    "loopholing, p = 0.5": (0.5, 1.0),
    "loopholing, p = 0.9": (0.9, 1.0),
}
"""Probability p of a second pass, and how many times as many optimiser steps."""

ORDERS = {"random": "llada-random", "confidence": "llada", "ancestral": "ancestral"}
STEPS = {"random": (4, 8, 16), "confidence": (4, 8, 16), "ancestral": (4, 8, 16, 64)}
CLUES = (0, 5)


class TwoPasses(nn.Module):
    """A loopholing network in training; called as the masked language model that it replaces."""

    def __init__(self, denoiser: LoopholingDenoiser, p: float, seed: int) -> None:
        super().__init__()
        self.network, self.denoiser, self.p = denoiser.module, denoiser, p
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, canvas: Tensor) -> SimpleNamespace:
        """Logits [B, L, V] after one pass or two, by the toss of each row's coin."""
        twice = torch.rand(len(canvas), generator=self.generator) < self.p
        h = self.denoiser.initial_carry(canvas)
        if bool(twice.any()):
            with torch.no_grad():
                h[twice] = self.denoiser(canvas[twice]).carry
        return SimpleNamespace(logits=self.denoiser(canvas, carry=h).values)


def fit(p: float, steps: int, batch_size: int, seed: int, **sizes: int) -> Denoiser:
    """A model after `steps` batches of a seed; with p = 0 it is the plain one, without state."""
    torch.manual_seed(seed)
    network = build_model(**sizes)
    plain = MaskedLMDenoiser(network, mask_token_id=MASK, tokenizer=build_tokenizer())
    if p == 0:
        train(network, steps, batch_size, seed)
        return plain
    denoiser = LoopholingDenoiser(plain)
    train(TwoPasses(denoiser, p, seed + 1), steps, batch_size, seed)  # called as a BertForMaskedLM
    return denoiser


def settled(denoiser: Denoiser, passes: int) -> Denoiser:
    """The model after `passes` passes over one canvas, as a model without state."""

    def logits(canvas: Tensor) -> Tensor:
        out = denoiser(canvas)
        for _ in range(passes - 1):
            out = denoiser(canvas, carry=out.carry)
        return out.values

    return wrap(logits, vocab_size=denoiser.vocab_size, mask_token_id=MASK)


def valid(
    denoiser: Denoiser, samples: int, orders: tuple[str, ...] = tuple(ORDERS), seed: int = 2
) -> dict[str, dict[str, float]]:
    """Fraction of valid grids, and forward passes per grid, at temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    table: dict[str, dict[str, float]] = {}
    for clues in CLUES:
        x = all_grids()[torch.randint(288, (samples,), generator=generator)]
        canvas, _ = hide(x, torch.full((samples,), CELLS - clues), generator)
        for order in orders:
            for steps in STEPS[order]:
                out = generate(
                    denoiser,
                    canvas,
                    sampler=ORDERS[order],
                    infill=True,
                    steps=steps,
                    temperature=1.0,
                    seed=seed,
                )
                good = is_valid(out.sequences)
                table[f"{clues} clues, {order}, {steps} steps"] = {
                    "valid": round(float(good.double().mean()), 4),
                    "distinct": len(out.sequences[good].unique(dim=0)),
                    "passes": round(float(out.nfe.double().mean()), 2),
                }
    return table


def measure(denoiser: Denoiser, samples: int) -> dict[str, Any]:
    """What is compared; a model with state also with its state held at 0, in random order."""
    found: dict[str, Any] = {
        "parameters": denoiser.num_parameters,
        "kl_per_masked_cell": [round(divergence(denoiser), 5)],
        "samples": valid(denoiser, samples),
    }
    if isinstance(denoiser, LoopholingDenoiser):
        later = [round(divergence(settled(denoiser, n)), 5) for n in (2, 3, 4)]
        found["kl_per_masked_cell"] += later
        found["samples_without_state"] = valid(denoiser.base, samples, ("random",))
    return found


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard error over seeds of every fraction of valid grids, per arm."""
    table: dict[str, Any] = {}
    for name, key in (("", "samples"), (", state held at 0", "samples_without_state")):
        for arm in ARMS:
            runs = [r[key] for r in records if r["arm"] == arm and key in r]
            if len(runs) > 1:
                table[arm + name] = {
                    setting: over_seeds([run[setting]["valid"] for run in runs])
                    for setting in runs[0]
                }
    return table


def over_seeds(values: list[float]) -> list[float]:
    """Mean and its standard error."""
    return [round(mean(values), 4), round(stdev(values) / len(values) ** 0.5, 4)]


app = typer.Typer(add_completion=False, help=__doc__)


@app.command("train")
def train_one(
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    p: Annotated[float, typer.Option(min=0, max=1, help="Probability of a second pass.")] = 0.5,
    steps: int = 1500,
    batch_size: int = 128,
    hidden_size: int = 48,
    layers: int = 2,
    heads: int = 4,
    seed: int = 0,
    samples: Annotated[int, typer.Option(help="Grids per number in the table.")] = 1000,
) -> None:
    """Train one model, save it, load it again, and print what it can do."""
    denoiser = fit(p, steps, batch_size, seed, hidden_size=hidden_size, layers=layers, heads=heads)
    save(denoiser, out)
    plan = {"p": p, "steps": steps, "batch_size": batch_size, "seed": seed}
    (out / "training.json").write_text(json.dumps(plan) + "\n", encoding="utf-8")
    print(json.dumps(measure(AutoDenoiser.from_pretrained(out), samples), indent=1))


@app.command()
def compare(
    results: Annotated[Path, typer.Option(help="Result file; also where a stopped run goes on.")],
    seeds: Annotated[int, typer.Option(help="Trainings per arm.")] = 5,
    steps: int = 1500,
    batch_size: int = 128,
    hidden_size: int = 48,
    layers: int = 2,
    heads: int = 4,
    samples: Annotated[int, typer.Option(help="Grids per number.")] = 1000,
) -> None:
    """Train all arms with several seeds and write one file."""
    sizes = {"hidden_size": hidden_size, "layers": layers, "heads": heads}
    settings = {"steps": steps, "batch_size": batch_size, "samples": samples, **sizes}
    report: dict[str, Any] = {"command": "", "settings": settings, "records": []}
    if results.exists():
        report = json.loads(results.read_text(encoding="utf-8"))
        if report["settings"] != settings:
            raise typer.BadParameter(
                f"{results} holds other settings, {report['settings']}; take those or another file."
            )
    report = {**report, "command": shlex.join(["python", *sys.argv])}
    report["oracle"] = report.get("oracle") or valid(SudokuOracle(), samples)
    records: list[dict[str, Any]] = report["records"]
    done = {(record["arm"], record["seed"]) for record in records}
    plan = [(arm, seed) for seed in range(seeds) for arm in ARMS if (arm, seed) not in done]
    for arm, seed in tqdm(plan, unit="training"):
        p, longer = ARMS[arm]
        count, begin = round(steps * longer), time.process_time()
        denoiser = fit(p, count, batch_size, seed, **sizes)
        seconds = round(time.process_time() - begin, 1)
        record = {"arm": arm, "seed": seed, "optimizer_steps": count, "cpu_seconds": seconds}
        records.append({**record, **measure(denoiser, samples)})
        report["summary"] = summary(records)
        unfinished = results.with_suffix(".part")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(results)
    for arm, row in report.get("summary", {}).items():
        print(arm)
        for setting, (middle, error) in row.items():
            print(f"  {setting:32} {middle:.3f} +- {error:.3f}")


def save(denoiser: Denoiser, folder: Path) -> None:
    """Write the checkpoint with 16-bit weights."""
    assert denoiser.module is not None
    denoiser.module.to(torch.float16)
    denoiser.save_pretrained(folder)
    # transformers 5 would name a class here that 4.x does not know.
    config = folder / "tokenizer_config.json"
    facts: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    facts["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
