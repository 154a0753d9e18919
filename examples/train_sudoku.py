"""Train the embedded 4x4 sudoku model, a masked diffusion model small enough for minutes on a CPU.

    python examples/train_sudoku.py --out runs/sudoku4x4 --results runs/sudoku4x4.json

A grid is 16 tokens (`dlm_sampling.testing.sudoku`).  The network is a small BERT because it needs
absolute positions: with rotary positions alone, every cell of a canvas of masks attends to the
same set of equal values, and with few clues it can hardly tell where the rows end.  The
objective is the masked diffusion bound in its any-order form, which has no weights
to cap: draw a number k of cells uniformly from 1 to 16 and average the cross-entropy over them,

    -log p(x) <= 16 E_k E_{masked | k} [ 1/k sum_{masked i} -log p(x_i | x_unmasked) ].

Ou et al. 2024, arXiv:2406.03736.  The table at the end is the fraction of valid grids among samples
beside the exact oracle with the same sampler, which separates the sampler's error from the model's.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from dlm_sampling import AutoDenoiser, Denoiser, generate
from dlm_sampling.testing.sudoku import CELLS, MASK, SIDE, SudokuOracle, all_grids, is_valid

SAMPLERS = {"random order": "llada-random", "confidence order": "llada"}
CLUES, STEPS = (0, 5), (4, 8, 16)


def build_model(hidden_size: int, layers: int, heads: int) -> BertForMaskedLM:
    """A small BERT over 5 symbols and 16 positions."""
    config = BertConfig(
        vocab_size=SIDE + 1,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=3 * hidden_size,
        max_position_embeddings=CELLS,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=None,  # id 0 is a digit
        tie_word_embeddings=True,
        mask_token_id=MASK,
    )
    model = BertForMaskedLM(config)
    for name, p in model.named_parameters():
        if p.ndim == 2 and "embeddings" not in name:
            nn.init.normal_(p, std=p.shape[1] ** -0.5)
        if "embeddings" in name and p.ndim == 2:
            nn.init.normal_(p, std=0.1)
    return model


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per cell: 1 to 4, and '.' for a cell to be filled; '/' and blanks are dropped."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    core = Tokenizer(models.WordLevel({"1": 0, "2": 1, "3": 2, "4": 3, ".": MASK}, unk_token="."))
    core.normalizer = normalizers.Replace(Regex(r"[\s/]"), "")
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens(["."])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, mask_token=".", unk_token=".", model_max_length=CELLS
    )


def hide(grids: Tensor, masked_cells: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mask `masked_cells[b]` random cells of row b; returns the canvases and the masked cells."""
    rank = torch.rand(grids.shape, generator=generator).argsort(dim=1).argsort(dim=1)
    masked = rank < masked_cells.unsqueeze(1)
    return grids.masked_fill(masked, MASK), masked


def train(model: BertForMaskedLM, steps: int, batch_size: int, seed: int) -> None:
    """Muon on the hidden matrices, AdamW on the rest; linear decay over the last 70%."""
    generator = torch.Generator().manual_seed(seed)
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "encoder" in n]
    chosen = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [
        (torch.optim.Muon(inner, lr=0.02, momentum=0.95, weight_decay=0.01), 0.02),
        (torch.optim.AdamW(rest, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0), 4e-3),
    ]
    grids, bar, smooth = all_grids(), tqdm(range(steps), unit="step"), 1.4
    for step in bar:
        factor = min(1.0, step / 20, (1 - step / steps) / 0.7)
        for optimizer, lr in optimizers:
            optimizer.param_groups[0]["lr"] = lr * max(factor, 1e-3)
        x = grids[torch.randint(len(grids), (batch_size,), generator=generator)]
        offset = torch.randint(CELLS, (), generator=generator)
        k = (offset + torch.arange(batch_size)) % CELLS + 1  # stratified over 1 .. 16
        canvas, masked = hide(x, k, generator)
        nll = F.cross_entropy(model(canvas).logits.transpose(1, 2), x, reduction="none")
        loss = ((nll * masked).sum(dim=1) / k).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        smooth += 0.02 * (float(loss.detach()) - smooth)
        bar.set_postfix_str(f"loss {smooth:.4f}")


@torch.no_grad()
def divergence(denoiser: Denoiser, rows: int = 4096, seed: int = 1) -> float:
    """Mean over canvases of KL(oracle || model) per masked cell, in nats."""
    generator = torch.Generator().manual_seed(seed)
    x = all_grids()[torch.randint(288, (rows,), generator=generator)]
    canvas, masked = hide(x, torch.arange(rows) % CELLS + 1, generator)
    p = SudokuOracle().probs(canvas)[..., :SIDE]
    log_q = denoiser.logits(canvas)[..., :SIDE].double().log_softmax(dim=-1)
    kl = -(p * log_q).sum(dim=-1) - torch.special.entr(p).sum(dim=-1)
    return float((kl * masked).sum() / masked.sum())


def valid_fractions(denoiser: Denoiser, samples: int, seed: int = 2) -> dict[str, dict[str, float]]:
    """Fraction of valid grids per setting and number of steps, at temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    table: dict[str, dict[str, float]] = {}
    for clues in CLUES:
        x = all_grids()[torch.randint(288, (samples,), generator=generator)]
        canvas, _ = hide(x, torch.full((samples,), CELLS - clues), generator)
        for order, sampler in SAMPLERS.items():
            row = table.setdefault(f"{clues} clues, {order}", {})
            for steps in STEPS:
                out = generate(
                    denoiser,
                    canvas,
                    sampler=sampler,
                    infill=True,
                    steps=steps,
                    temperature=1.0,
                    seed=seed,
                )
                row[f"{steps} steps"] = round(float(is_valid(out.sequences).double().mean()), 4)
    return table


def save(model: BertForMaskedLM, folder: Path) -> None:
    """Write config, 16-bit weights and tokenizer."""
    model.to(torch.float16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    # transformers 5 would name a class here that 4.x does not know.
    config = folder / "tokenizer_config.json"
    facts: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    facts["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main(
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    *,
    steps: int = 1000,
    batch_size: int = 128,
    hidden_size: int = 96,
    layers: int = 3,
    heads: int = 4,
    seed: int = 0,
    evaluate_only: Annotated[bool, typer.Option(help="Measure what OUT already holds.")] = False,
    samples: Annotated[int, typer.Option(help="Grids per number in the table.")] = 1000,
    results: Annotated[Path | None, typer.Option(help="Also write the table as JSON.")] = None,
) -> None:
    """Train, save, load again, and compare with the exact oracle."""
    if not evaluate_only:
        torch.manual_seed(seed)
        model = build_model(hidden_size, layers, heads)
        train(model, steps, batch_size, seed)
        save(model.eval(), out)
        plan = {"steps": steps, "batch_size": batch_size, "seed": seed}
        (out / "training.json").write_text(json.dumps(plan) + "\n", encoding="utf-8")
    denoiser = AutoDenoiser.from_pretrained(out)
    report = {
        "command": shlex.join(["python", *sys.argv]),
        "parameters": denoiser.num_parameters,
        "kl_per_masked_cell": round(divergence(denoiser), 5),
        "samples": samples,
        "valid": {
            "model": valid_fractions(denoiser, samples),
            "oracle": valid_fractions(SudokuOracle(), samples),
        },
    }
    text = json.dumps(report, indent=1)
    print(text)
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
