"""Measure the variance of likelihood estimators at equal numbers of forward passes.

    python -m dlm_eval.likelihood.estimators --out eval/results/estimators.json

Passages of the held-out books are scored under `tiny-books` by every estimator with as many
passes, under many seeds.  Written for each: the mean, in nats per token, against the bound from
many masks; the standard deviation over seeds of a text's estimate; and the noise of the gradient,
sqrt(E |g - E g|^2) / |E g|, of a loss whose weights are +1 and -1 by turns, as advantages are.
An estimator of fewer passes is averaged over as many draws as fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from dlm_eval.data import passages
from dlm_eval.journal import Journal
from dlm_eval.program import check_result, command_of, start
from dlm_sampling import AutoDenoiser, Denoiser, elbo
from dlm_sampling.rl import (
    coupled_logprob,
    level_of_iteration,
    mean_field_logprob,
    one_level_logprob,
    upper_bound,
)

MODEL, CHARACTERS, REFERENCE_MASKS = "tiny-books", 200, 256


@dataclass(frozen=True)
class Texts:
    """Hold texts int64 [B, L] of the model, with the positions to score and to attend to."""

    denoiser: Denoiser
    tokens: Tensor
    editable: Tensor
    attention: Tensor

    @property
    def options(self) -> dict[str, Any]:
        """Return the arguments that all estimators share."""
        return {"editable": self.editable, "attention_mask": self.attention}

    @property
    def lengths(self) -> Tensor:
        """Return the tokens to score of each text, int64 [B]."""
        return self.editable.sum(1)


@dataclass(frozen=True)
class Estimator:
    """Hold one estimator.

    Fields:
        values: returns the log-likelihood of each text, [B], from texts, seed and passes.
        passes: forward passes of one draw; None: any number.
        bound: whether its expectation is the bound of `elbo`.
    """

    values: Callable[[Texts, int, int], Tensor]
    passes: int | None = None
    bound: bool = True


def _bound(scheme: Any) -> Callable[[Texts, int, int], Tensor]:
    return lambda texts, seed, n: (
        elbo(texts.denoiser, texts.tokens, n=n, scheme=scheme, seed=seed, **texts.options).value
    )


def _mean_field(texts: Texts, seed: int, n: int) -> Tensor:
    found = mean_field_logprob(texts.denoiser, texts.tokens, seed=seed, **texts.options)
    return found.sum(1)


def _coupled(texts: Texts, seed: int, n: int) -> Tensor:
    return coupled_logprob(texts.denoiser, texts.tokens, seed=seed, **texts.options).sum(1)


def _one_level(texts: Texts, seed: int, n: int) -> Tensor:
    level = level_of_iteration(0, 1, float(torch.rand((), generator=_made(seed))))
    found = one_level_logprob(texts.denoiser, texts.tokens, level=level, seed=seed, **texts.options)
    return found * texts.lengths


def _upper(texts: Texts, seed: int, n: int) -> Tensor:
    return upper_bound(texts.denoiser, texts.tokens, n=n, seed=seed, **texts.options)


ESTIMATORS: dict[str, Estimator] = {
    "elbo, count": Estimator(_bound("count")),
    "elbo, stratified": Estimator(_bound("stratified")),
    "elbo, bernoulli": Estimator(_bound("bernoulli")),
    "elbo, coupled (antithetic)": Estimator(_bound("coupled")),
    "mean_field_logprob (d1)": Estimator(_mean_field, 1, False),
    "coupled_logprob (DiffuCoder)": Estimator(_coupled, 3, False),
    "one_level_logprob (UniGRPO)": Estimator(_one_level, 1, False),
    "upper_bound (SPG)": Estimator(_upper, None, False),
}


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")],
    texts: Annotated[int, typer.Option(min=2, help="Passages.")] = 16,
    passes: Annotated[int, typer.Option(min=6, help="Passes per text, a multiple of 6.")] = 6,
    seeds: Annotated[int, typer.Option(min=4, help="Draws of every estimator.")] = 32,
    characters: Annotated[int, typer.Option(min=20, help="Of a passage.")] = CHARACTERS,
    reference: Annotated[int, typer.Option(min=1, help="Masks of the bound.")] = REFERENCE_MASKS,
) -> None:
    """Measure all estimators and write the file; a killed run goes on."""
    if passes % 6:
        raise typer.BadParameter(f"--passes {passes}: must be a multiple of 6.")
    check_result(out)
    torch.set_num_threads(1)
    made = read(texts, characters)
    settings = {
        "model": MODEL, "texts": texts, "characters": characters, "passes": passes, "seeds": seeds,
        "reference_masks": reference,
    }  # fmt: skip
    journal = Journal(out.with_suffix(".journal.jsonl"), settings)
    if not journal.records:
        journal.append({"bound": _reference(made, reference)})
    done = {record["name"] for record in journal.records[1:]}
    for name, estimator in tqdm(ESTIMATORS.items(), unit="estimator", disable=None):
        if name not in done:
            journal.append({"name": name, **measured(made, estimator, passes, seeds)})
    bound = torch.tensor(journal.records[0]["bound"], dtype=torch.float64)
    lengths = made.lengths.double()
    rows = [_row(record, bound, lengths) for record in journal.records[1:]]
    command = command_of("dlm_eval.likelihood.estimators")
    mean = float((bound / lengths).mean())
    result = {"command": command, **settings, "bound_nats_per_token": mean, "rows": rows}
    out.write_text(json.dumps(result, indent=1) + "\n")
    journal.path.unlink()
    for row in rows:
        typer.echo(json.dumps(row))


def read(count: int, characters: int) -> Texts:
    """Return passages of the held-out books as texts of the model."""
    denoiser = AutoDenoiser.from_pretrained(MODEL, dtype="float32")
    tokenizer = denoiser.tokenizer
    assert tokenizer is not None and denoiser.mask_token_id is not None
    ids = [tokenizer.encode(text)[: denoiser.max_length] for text in passages(count, characters)]
    width = max(map(len, ids))
    tokens = torch.zeros(count, width, dtype=torch.int64)
    attention = torch.zeros(count, width, dtype=torch.bool)
    for row, some in enumerate(ids):
        tokens[row, width - len(some) :] = torch.tensor(some)
        attention[row, width - len(some) :] = True
    return Texts(denoiser, tokens, attention, attention)


def measured(texts: Texts, estimator: Estimator, passes: int, seeds: int) -> dict[str, Any]:
    """Draw an estimator under every seed: values [seeds, B], and the moments of its gradient."""
    module = texts.denoiser.module
    assert module is not None
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    sign = torch.tensor([1.0 - 2.0 * (row % 2) for row in range(len(texts.tokens))])
    total = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    values: list[list[float]] = []
    squares = 0.0
    each = passes if estimator.passes is None else estimator.passes
    for seed in range(seeds):
        draws = [
            estimator.values(texts, 1_000_003 * seed + draw, each) for draw in range(passes // each)
        ]
        value = torch.stack(draws).mean(0)
        loss = (sign * value / texts.lengths).mean()
        gradient = torch.autograd.grad(loss, weights)
        for sum_, one in zip(total, gradient, strict=True):
            sum_ += one
            squares += float(one.double().square().sum())
        values.append(value.detach().double().tolist())
    mean_square = sum(float((one / seeds).square().sum()) for one in total)
    variance = max(squares / seeds - mean_square, 0.0) * seeds / (seeds - 1)
    # |mean of the gradients|^2 is too large by their variance over the number of seeds.
    signal = max(mean_square - variance / seeds, 0.0)
    return {"values": values, "noise": variance**0.5, "signal": signal**0.5}


def _reference(texts: Texts, masks: int) -> list[float]:
    with torch.no_grad():
        found = elbo(
            texts.denoiser, texts.tokens, n=masks, scheme="stratified", seed=2**40, **texts.options
        )
    return found.value.double().tolist()


def _row(record: dict[str, Any], bound: Tensor, lengths: Tensor) -> dict[str, Any]:
    values = torch.tensor(record["values"], dtype=torch.float64) / lengths
    gap = values - bound / lengths
    signal = record["signal"]
    return {
        "estimator": record["name"],
        "bound": ESTIMATORS[record["name"]].bound,
        "mean_gap": float(gap.mean()),
        "mean_gap_error": float(gap.mean(1).std() / len(gap) ** 0.5),
        "deviation": float(values.var(0).mean().sqrt()),
        "gradient_noise": record["noise"] / signal if signal else None,
    }


def _made(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    start(main)
