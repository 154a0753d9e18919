"""Bits per character of a diffusion model on held-out text, by its likelihood bound.

    -log p(x) <= E_l E_M (L / l) * sum over M of -log p(x_i | x outside M)

with l uniform on 1..L and M a uniform subset of l positions (the any-order form of the masked
diffusion bound; Ou et al. 2024, arXiv:2406.03736).  With
exact conditionals the bound is tight in expectation.  A model of uniform noise is judged by the
bound of its 1000-step ancestral sampler (`uniform_elbo`).  A text is cut into windows of L tokens
that are judged independently, so the figure also pays for the missing context at their starts.

    python -m dlm_eval.judges.bound --model tiny-books
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from dlm_eval.data import held_out_books
from dlm_eval.program import check_result, command_of, start
from dlm_eval.tasks.books import encode_book, read_split
from dlm_sampling import AutoDenoiser, Denoiser, elbo, uniform_elbo
from dlm_sampling.ops import row_seeds


def bound(denoiser: Denoiser, windows: Tensor, *, samples: int, seed: int, batch: int) -> Tensor:
    """Unbiased estimates of the bound, one per window, in nats.

    Masks are those of `dlm_sampling.elbo`, stratified; uniform noise is that of
    `dlm_sampling.uniform_elbo`.

    Args:
        denoiser: the model.
        windows: int64 [N, L].
        samples: masks, or noised texts, per window.
        seed: seed of the masks or noise.
        batch: windows per forward pass.

    Returns:
        float64 [N].  Costs `samples` forward passes per window.
    """
    seeds = row_seeds(seed, len(windows))
    values: list[Tensor] = []
    for rows in tqdm(torch.arange(len(windows)).split(batch), unit="batch", disable=None):
        text, own = windows[rows], [seeds[i] for i in rows.tolist()]
        everywhere = torch.ones_like(text, dtype=torch.bool)
        found = (
            uniform_elbo(denoiser, text, editable=everywhere, n=samples, seed=own)
            if denoiser.process.name == "uniform"
            else elbo(
                denoiser, text, editable=everywhere, scheme="stratified", n=samples, seed=own,
                grad=False,
            )
        )  # fmt: skip
        values.append(-found.value.double().cpu())
    return torch.cat(values)


def report(
    denoiser: Denoiser, texts: dict[str, str], length: int, samples: int, seed: int, batch: int
) -> dict[str, Any]:
    """The bound on each text, with its standard error over windows."""
    found: dict[str, Any] = {}
    for name, text in texts.items():
        ids = torch.from_numpy(encode_book(denoiser.tokenizer, text))
        windows = ids[: len(ids) // length * length].view(-1, length)
        characters = len(text) * windows.numel() / len(ids)
        nats = bound(denoiser, windows, samples=samples, seed=seed, batch=batch)
        scale = len(windows) / characters / math.log(2)
        error = float(nats.std() / len(nats) ** 0.5)
        found[name] = {
            "windows": len(windows),
            "nats_per_token": round(float(nats.mean()) / length, 4),
            "bits_per_char": round(float(nats.mean()) * scale, 4),
            "standard_error": round(error * scale, 4),
        }
    return found


def main(
    model: Annotated[str, typer.Option(help="Embedded model, hub name or folder.")] = "tiny-books",
    books: Annotated[
        Path | None,
        typer.Option(help="Folder of plain-text books; default the held-out books that ship."),
    ] = None,
    split: Annotated[
        Path, typer.Option(help="Of --books: Python file with HELD_OUT_BOOKS; read, not run.")
    ] = Path("examples/train_tiny.py"),
    length: Annotated[int, typer.Option(help="Tokens per window.")] = 128,
    samples: Annotated[int, typer.Option(help="Masks, or noised texts, per window.")] = 4,
    seed: int = 0,
    batch: int = 16,
    out: Annotated[Path, typer.Option(help="Result file (JSON).")] = Path(
        "eval/results/tiny_books.json"
    ),
) -> None:
    """Report the bound of a model on the held-out books."""
    check_result(out)
    denoiser = AutoDenoiser.from_pretrained(model)
    texts = held_out_books() if books is None else read_split(split, books).held_out
    result = {
        "command": command_of("dlm_eval.judges.bound"),
        "model": model,
        "length": length,
        "samples": samples,
        "seed": seed,
        "held_out": report(denoiser, texts, length, samples, seed, batch),
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(result["held_out"], indent=1))


if __name__ == "__main__":
    start(main)
