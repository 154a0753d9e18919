"""Train the embedded tiny uniform-noise language model on public-domain books.

    python examples/train_uniform.py train --books PATH/TO/books --out runs/uniform --steps 10000
    python examples/train_uniform.py convert --out runs/uniform --to PATH/TO/tiny-books-uniform

The network is a diffusion transformer in Duo's checkpoint format, with the tokenizer of tiny-books.
Each token is replaced, with probability 1 - alpha_t = (1 - 1e-3) t, by a token drawn uniformly from
all V columns (which may be the same token again).  The loss is the cross-entropy at the replaced
positions only,

    E_t E 1/max(t, 0.15) sum over replaced i of -log p_i(x0_i | x_t, t),

normalised in the batch.  Its optimum is the leave-one-out law that Duo's bound needs: where i was
replaced, x_t,i is an independent uniform draw and says nothing about x0_i or the rest, so

    P(x0_i | x_t, i replaced) = P(x0_i | x_t without i),

and the network is never rewarded for copying its input.  (The posterior would need the loss at all
positions.)  Weights that depend on t alone move no optimum, because the network sees t.  One third
of the rows keep a clean prefix of random length, the pattern of a prompt; the law is then that of
the mixture of both kinds of rows.  Killed runs resume from `OUT/state.pt`: run the same command.

Sahoo et al. 2025, arXiv:2506.10892 (Duo); cross-entropy at noise only: Liu et al. 2024,
arXiv:2410.06264 (DDPD).
"""

import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm
from train_tiny import (
    HELD_OUT_BOOKS,
    TRAIN_BOOKS,
    encode,
    read_books,
    resume,
    save_state,
    swap,
)

from dlm_sampling import uniform_elbo
from dlm_sampling.denoisers import AutoDenoiser, Denoiser
from dlm_sampling.embedded import embedded_path

EPS = 1e-3
WARMUP, DECAY, AVERAGE = 100, 0.6, 0.998

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Plan:
    """What fixes the run; saved with the state and compared when a run resumes."""

    hidden_size: int
    layers: int
    heads: int
    cond_dim: int
    length: int
    batch_size: int
    lr: float
    bf16: bool
    seed: int


def noise_batch(
    x: Tensor, vocab_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise each row at its own level t; a third of the rows keep a clean prefix.

    Returns the noised ids, the replaced positions [B, L], and t [B].
    """
    rows, length = x.shape
    t = (torch.rand((), generator=generator) + torch.arange(rows) / rows) % 1.0
    t = t[torch.randperm(rows, generator=generator)]
    replaced = torch.rand(x.shape, generator=generator) < (1 - EPS) * t.unsqueeze(1)
    prefix = torch.randint(0, length, (rows, 1), generator=generator)
    prefix[rows // 3 :] = 0
    replaced &= torch.arange(length) >= prefix
    noise = torch.randint(vocab_size, x.shape, generator=generator)
    return torch.where(replaced, noise, x), replaced, t


def loss_of(
    denoiser: Denoiser, x: Tensor, noised: Tensor, replaced: Tensor, t: Tensor, bf16: bool
) -> Tensor:
    """Weighted mean cross-entropy at the replaced positions, nats."""
    # Plain matrix products: the fused attention is slower for narrow heads on a CPU.
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = denoiser(noised, None, t)
        if out.head is None:
            raise ValueError("denoiser: it must return hidden states and a head.")
        logits = out.head(out.values[replaced])
    nll = F.cross_entropy(logits.float(), x[replaced], reduction="none")
    weight = (1 / t.clamp_min(0.15)).unsqueeze(1).expand_as(x)[replaced]
    return (weight * nll).sum() / weight.sum()


def first_weights(plan: Plan, ids: Tensor) -> dict[str, Tensor]:
    """Weights before training, by their names in a Duo checkpoint.

    The embedding is that of tiny-books, projected on its largest principal directions and turned at
    random; the output head starts small along it, with the log of the token counts as bias.
    Attention and MLP outputs start at 0 behind gates of 1.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    tiny: Any = AutoDenoiser.from_pretrained("tiny-books").module
    table: Tensor = tiny.get_input_embeddings().weight.detach()
    centred = table - table.mean(0)
    d, cond, size = plan.hidden_size, plan.cond_dim, len(table)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
    embedding = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:d].T @ turn
    embedding /= embedding.std()
    counts = torch.bincount(ids, minlength=size) + 0.1

    def matrix(out: int, into: int) -> Tensor:
        return torch.randn(out, into, generator=generator) * into**-0.5

    gates = torch.zeros(6, d)
    gates[[2, 5]] = 1.0
    weights = {
        "vocab_embed.embedding": embedding,
        "sigma_map.mlp.0.weight": matrix(cond, 256),
        "sigma_map.mlp.0.bias": torch.zeros(cond),
        "sigma_map.mlp.2.weight": matrix(cond, cond),
        "sigma_map.mlp.2.bias": torch.zeros(cond),
        "output_layer.norm_final.weight": torch.ones(d),
        "output_layer.linear.weight": 0.03 * embedding,
        "output_layer.linear.bias": (counts / counts.sum()).log(),
        "output_layer.adaLN_modulation.weight": torch.zeros(2 * d, cond),
        "output_layer.adaLN_modulation.bias": torch.zeros(2 * d),
    }
    for layer in range(plan.layers):
        block = {
            "norm1.weight": torch.ones(d),
            "attn_qkv.weight": matrix(3 * d, d),
            "attn_out.weight": torch.zeros(d, d),
            "norm2.weight": torch.ones(d),
            "mlp.0.weight": matrix(4 * d, d),
            "mlp.0.bias": torch.zeros(4 * d),
            "mlp.2.weight": torch.zeros(d, 4 * d),
            "mlp.2.bias": torch.zeros(d),
            "adaLN_modulation.weight": torch.zeros(6 * d, cond),
            "adaLN_modulation.bias": gates.flatten().clone(),
        }
        weights |= {f"blocks.{layer}.{name}": value for name, value in block.items()}
    return weights


def build_denoiser(plan: Plan, ids: Tensor, folder: Path) -> Denoiser:
    """Write the first weights as a Duo checkpoint and load it as any other."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny = embedded_path("tiny-books")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny / name, folder / name)
    config = {
        "algo": {"name": "duo", "backbone": "dit", "time_conditioning": True},
        "diffusion": "uniform_state",
        "model": {
            "hidden_size": plan.hidden_size,
            "cond_dim": plan.cond_dim,
            "n_blocks": plan.layers,
            "n_heads": plan.heads,
            "length": plan.length,
        },
        "eos_token_id": json.loads((tiny / "config.json").read_text())["eos_token_id"],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(first_weights(plan, ids), folder / "model.safetensors")
    return AutoDenoiser.from_pretrained(folder, dtype=torch.float32)


def make_optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon on the matrices of attention and MLP, AdamW on the rest."""
    muon = {
        name
        for name, p in model.named_parameters()
        if p.ndim == 2 and "blocks." in name and "adaLN" not in name
    }
    matrices = [p for name, p in model.named_parameters() if name in muon]
    rest = [p for name, p in model.named_parameters() if name not in muon]
    return [
        torch.optim.Muon(
            matrices, lr=lr, momentum=0.95, weight_decay=0.01, adjust_lr_fn="original"
        ),
        torch.optim.AdamW(rest, lr=lr / 5, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def held_out_bounds(denoiser: Denoiser, books: Path, length: int, rows: int) -> dict[str, Any]:
    """The bound on `rows` windows of each held-out book, one draw each: exact to a few percent."""
    found: dict[str, Any] = {}
    for stem in HELD_OUT_BOOKS:
        texts = read_books(books, (stem,))
        ids = encode(denoiser.tokenizer, texts)
        windows = ids[: len(ids) // length * length].view(-1, length)
        some = windows[:: max(1, len(windows) // rows)]
        everywhere = torch.ones_like(some, dtype=torch.bool)
        bound = uniform_elbo(denoiser, some, editable=everywhere, n=1, seed=0, batch_size=16)
        per_token = -float(bound.value.mean()) / length
        found[stem] = {
            "nats_per_token": round(per_token, 4),
            "bits_per_char": round(per_token * len(ids) / len(texts[0]) / math.log(2), 4),
        }
    return found


@app.command()
def train(
    books: Annotated[Path, typer.Option(help="Folder of plain-text books.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the state and the log.")],
    steps: Annotated[int, typer.Option(help="The learning rate decays to zero over them.")],
    stop_at: Annotated[
        int | None, typer.Option(help="Stop after this step, to resume later.")
    ] = None,
    hidden_size: int = 160,
    layers: int = 5,
    heads: int = 5,
    cond_dim: int = 32,
    length: int = 128,
    batch_size: int = 32,
    lr: float = 0.02,
    bf16: Annotated[bool, typer.Option(help="Matrix products in bfloat16.")] = False,
    seed: int = 0,
    eval_every: Annotated[int, typer.Option(help="Steps between evaluations.")] = 1000,
    eval_rows: Annotated[int, typer.Option(help="Windows per book in an evaluation.")] = 192,
    save_every: Annotated[int, typer.Option(help="Steps between saved states.")] = 250,
) -> None:
    """Train; log the bound of the averaged weights on the held-out books."""
    plan = Plan(hidden_size, layers, heads, cond_dim, length, batch_size, lr, bf16, seed)
    tokenizer = AutoDenoiser.from_pretrained("tiny-books").tokenizer
    ids = encode(tokenizer, read_books(books, TRAIN_BOOKS))
    denoiser = build_denoiser(plan, ids, out / "checkpoint")
    model = denoiser.module
    if model is None:
        raise ValueError("denoiser: it has no module to train.")
    ema = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = make_optimizers(model, lr)
    state: dict[str, Any] = {"plan": asdict(plan), "step": 0, "tokens": 0, "log": []}
    if (out / "state.pt").exists():
        state = resume(out / "state.pt", plan, model, ema, optimizers, torch.device("cpu"))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters, {len(ids)} tokens")

    smooth = math.nan
    bar = tqdm(total=steps, initial=state["step"], mininterval=10.0)
    while state["step"] < (steps if stop_at is None else min(steps, stop_at)):
        step = state["step"]
        factor = min(1.0, (step + 1) / WARMUP) * min(1.0, (1 - step / steps) / DECAY)
        for optimizer, base in zip(optimizers, (lr, lr / 5), strict=True):
            optimizer.param_groups[0]["lr"] = base * factor
        generator = torch.Generator().manual_seed((seed << 32) + step)
        starts = torch.randint(0, len(ids) - length, (batch_size,), generator=generator)
        x = torch.stack([ids[s : s + length] for s in starts])
        loss = loss_of(denoiser, x, *noise_batch(x, denoiser.vocab_size, generator), bf16)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, p in model.named_parameters():
                ema[name].lerp_(p, 1 - decay)
        state["step"] += 1
        state["tokens"] += x.numel()
        value = float(loss.detach())
        smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
        bar.update()
        bar.set_postfix_str(f"loss {smooth:.3f}", refresh=False)
        if state["step"] % eval_every == 0 or state["step"] == steps:
            current = {name: p.detach().clone() for name, p in model.named_parameters()}
            swap(model, ema)
            row = {"step": state["step"], "tokens": state["tokens"], "loss": round(smooth, 4)}
            state["log"].append(row | held_out_bounds(denoiser, books, length, eval_rows))
            swap(model, current)
            bar.write(json.dumps(state["log"][-1]))
        if state["step"] % save_every == 0:
            save_state(out / "state.pt", model, ema, optimizers, state)
    bar.close()
    save_state(out / "state.pt", model, ema, optimizers, state)


@app.command()
def convert(
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    to: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
) -> None:
    """Write the averaged weights in 16 bits, the tokenizer and the training record."""
    denoiser = AutoDenoiser.from_pretrained(out / "checkpoint", dtype=torch.float32)
    saved = torch.load(out / "state.pt", map_location="cpu", weights_only=True)
    if denoiser.module is None:
        raise ValueError("denoiser: it has no module.")
    swap(denoiser.module, saved["ema"])
    denoiser.save_pretrained(to, dtype="float16")
    record = {
        "plan": saved["plan"],
        "steps": saved["step"],
        "tokens": saved["tokens"],
        "first_embedding": "tiny-books, projected on its principal directions",
        "train_books": TRAIN_BOOKS,
        "held_out_books": HELD_OUT_BOOKS,
        "log": saved["log"],
    }
    (to / "training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    app()
