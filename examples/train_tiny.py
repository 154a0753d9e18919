"""Train the embedded tiny masked diffusion language model on public-domain books.

    python examples/train_tiny.py --books PATH/TO/books --out runs/tiny --minutes 120

The network is the LLaDA architecture (bidirectional Llama blocks) at a few million parameters, so
the result loads through the same code path as an 8B LLaDA checkpoint.  The objective is the masked
diffusion bound with a log-linear schedule, (1/t) * cross-entropy at masked positions, with the
weight capped at 1/0.15 and normalised in the batch; half of the sequences keep a clean prefix,
which is the pattern that text generation meets.  Killed runs resume from `OUT/state.pt`: run the
same command. On several processes (`torchrun --nproc-per-node N`) gradients are averaged; each rank
draws its own batches.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.distributed import all_reduce, destroy_process_group, init_process_group
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dlm_sampling.denoisers import LLaDADenoiser

TRAIN_BOOKS = (
    "aesop_fables",
    "beatrix-potter_short-fiction",
    "hugh-lofting_the-story-of-doctor-dolittle",
    "hugh-lofting_the-voyages-of-doctor-dolittle",
    "jacob-grimm_wilhelm-grimm_household-tales",
    "l-frank-baum_dorothy-and-the-wizard-in-oz",
    "l-frank-baum_ozma-of-oz",
    "l-frank-baum_the-marvelous-land-of-oz",
    "l-frank-baum_the-wonderful-wizard-of-oz",
    "lewis-carroll_alices-adventures-in-wonderland",
    "lewis-carroll_through-the-looking-glass",
    "rudyard-kipling_just-so-stories",
)
HELD_OUT_BOOKS = ("l-frank-baum_the-road-to-oz", "george-macdonald_the-princess-and-the-goblin")
MASK, END, PAD = "<|mask|>", "<|endoftext|>", "<|pad|>"


@dataclass(frozen=True)
class Plan:
    """What fixes the run; saved with the state and compared when a run resumes."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    length: int
    batch_size: int
    lr: float
    seed: int


def read_books(folder: Path, stems: tuple[str, ...]) -> list[str]:
    """Return the texts of the books whose file names start with one of `stems`."""
    texts: list[str] = []
    for stem in stems:
        files = sorted(folder.glob(f"{stem}*.txt"))
        if not files:
            raise SystemExit(
                f"--books {folder}: no file starts with {stem!r}. Point --books at the "
                "folder of texts."
            )
        texts += [file.read_text(encoding="utf-8") for file in files]
    return texts


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt on the training books; the last three ids are the special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 3,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_special_tokens([MASK, END, PAD])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, mask_token=MASK, eos_token=END, pad_token=PAD, model_max_length=512
    )


def mask_batch(
    x: Tensor, mask_token_id: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mask each row at its own level t; half of the rows keep a clean prefix of random length.

    Returns the noised ids, the masked positions [B, L], and the weight 1 / max(t, 0.15) [B, 1].
    """
    rows, length = x.shape
    t = (torch.rand((), generator=generator) + torch.arange(rows) / rows) % 1.0
    t = t[torch.randperm(rows, generator=generator)].unsqueeze(1).clamp(1e-3, 1.0)
    masked = torch.rand(rows, length, generator=generator) < t
    prefix = torch.randint(0, length, (rows, 1), generator=generator)
    prefix[rows // 2 :] = 0
    masked &= torch.arange(length) >= prefix
    masked[:, -1] |= ~masked.any(dim=1)
    return torch.where(masked, mask_token_id, x), masked, 1.0 / t.clamp_min(0.15)


def losses(model: LlamaForCausalLM, noised: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Cross-entropy at the masked positions only, flat [number of masked positions], nats."""
    hidden = model.model(
        inputs_embeds=model.model.embed_tokens(noised), attention_mask=full_attention(noised)
    )[0]
    return F.cross_entropy(model.lm_head(hidden[masked]).float(), target[masked], reduction="none")


def full_attention(x: Tensor) -> Tensor:
    """The all-zero additive mask [1, 1, L, L] that makes the stock Llama blocks bidirectional."""
    return torch.zeros(1, 1, x.shape[1], x.shape[1], device=x.device)


@torch.no_grad()
def held_out_bound(
    model: LlamaForCausalLM, ids: Tensor, mask_token_id: int, chars_per_token: float
) -> dict[str, float]:
    """Stratified Monte Carlo NELBO, E_t[(1/t) * sum of masked cross-entropies]."""
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    for chunk in ids.split(16):
        levels = (
            (torch.rand((), generator=generator) + torch.arange(len(chunk)) / len(chunk)) % 1.0
        ).clamp_min(1e-3)
        levels = levels.unsqueeze(1)
        masked = torch.rand(chunk.shape, generator=generator) < levels
        noised = torch.where(masked, mask_token_id, chunk)
        nll = losses(model, noised.to(device), chunk.to(device), masked.to(device)).cpu()
        total += float((nll * (1.0 / levels).expand_as(masked)[masked]).sum())
        tokens += chunk.numel()
    return {
        "nats_per_token": total / tokens,
        "bits_per_char": total / tokens / chars_per_token / math.log(2),
    }


def make_optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon on the hidden matrices, AdamW on embeddings and norms."""
    matrices = [
        p
        for n, p in model.named_parameters()
        if p.ndim == 2 and "embed" not in n and "lm_head" not in n
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=lr, momentum=0.95, weight_decay=0.01, adjust_lr_fn="original"
        ),
        torch.optim.AdamW(rest, lr=lr / 5, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def main(
    books: Annotated[Path, typer.Option(help="Folder of plain-text books.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the state and the log.")],
    minutes: Annotated[
        float, typer.Option(help="Training time; the learning rate decays to zero over it.")
    ] = 120.0,
    vocab_size: int = 4096,
    hidden_size: int = 256,
    layers: int = 5,
    heads: int = 4,
    length: int = 128,
    batch_size: Annotated[int, typer.Option(help="Sequences per process and step.")] = 16,
    lr: float = 0.02,
    seed: int = 0,
    eval_every: Annotated[float, typer.Option(help="Minutes between evaluations.")] = 10.0,
    save_every: Annotated[float, typer.Option(help="Minutes between saved states.")] = 3.0,
) -> None:
    """Train, evaluate on held-out books, and write a checkpoint that `dlm_sampling` loads."""
    plan = Plan(vocab_size, hidden_size, layers, heads, length, batch_size, lr, seed)
    rank, world, device = start_processes()
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)

    texts = read_books(books, TRAIN_BOOKS)
    tokenizer = prepare_tokenizer(texts, plan, out, rank, world)
    ids = encode(tokenizer, texts)
    held = {stem: read_books(books, (stem,)) for stem in HELD_OUT_BOOKS}
    held_ids = {stem: encode(tokenizer, text) for stem, text in held.items()}
    chars = {stem: len(text[0]) / len(held_ids[stem]) for stem, text in held.items()}

    model = build_model(plan, tokenizer).to(device)
    ema = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizers = make_optimizers(model, lr)
    state: dict[str, Any] = {
        "plan": asdict(plan),
        "step": 0,
        "seconds": 0.0,
        "tokens": 0,
        "log": [],
    }
    if (out / "state.pt").exists():
        state = resume(out / "state.pt", plan, model, ema, optimizers, device)
    if rank == 0:
        print(
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters, "
            f"{len(ids)} training tokens"
        )

    bar = tqdm(
        total=minutes * 60,
        initial=state["seconds"],
        unit="s",
        disable=rank != 0,
        bar_format="{l_bar}{bar}| {postfix}",
    )
    last_eval = last_save = state["seconds"]
    smooth = float("nan")
    while (progress := agree(state["seconds"] / (minutes * 60), world)) < 1.0:
        began = time.monotonic()
        factor = min(1.0, state["step"] / 50) * min(1.0, (1.0 - progress) / 0.6)
        for optimizer, base in zip(optimizers, (lr, lr / 5), strict=True):
            optimizer.param_groups[0]["lr"] = base * max(factor, 1e-3)
        generator = torch.Generator().manual_seed(((seed * world + rank) << 32) + state["step"])
        starts = torch.randint(0, len(ids) - length, (batch_size,), generator=generator)
        x = torch.stack([ids[s : s + length] for s in starts])
        noised, masked, weight = mask_batch(x, tokenizer.mask_token_id, generator)
        nll = losses(model, noised.to(device), x.to(device), masked.to(device))
        w = weight.expand_as(masked)[masked].to(device)
        loss = (w * nll).sum() / w.sum()
        loss.backward()
        if world > 1:
            average_gradients(model, world)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(0.998, (1 + state["step"]) / (10 + state["step"]))
        with torch.no_grad():
            for name, p in model.named_parameters():
                ema[name].lerp_(p, 1 - decay)
        state["step"] += 1
        state["tokens"] += x.numel() * world
        elapsed = time.monotonic() - began
        state["seconds"] += elapsed
        smooth = (
            float(loss.detach())
            if math.isnan(smooth)
            else 0.98 * smooth + 0.02 * float(loss.detach())
        )
        bar.update(elapsed)
        bar.set_postfix_str(
            f"step {state['step']} loss {smooth:.3f} {x.numel() * world / elapsed:.0f} tok/s"
        )
        if rank == 0 and (
            state["seconds"] - last_eval > eval_every * 60 or state["seconds"] >= minutes * 60
        ):
            last_eval = state["seconds"]
            evaluate(model, ema, held_ids, chars, tokenizer.mask_token_id, state)
            bar.write(json.dumps(state["log"][-1]))
            export(model, ema, tokenizer, plan, state, out)
        if rank == 0 and state["seconds"] - last_save > save_every * 60:
            last_save = state["seconds"]
            save_state(out / "state.pt", model, ema, optimizers, state)
    bar.close()
    if rank == 0:
        save_state(out / "state.pt", model, ema, optimizers, state)
    if world > 1:
        destroy_process_group()


def start_processes() -> tuple[int, int, torch.device]:
    """Join torchrun's process group if there is one; return rank, world size and device."""
    import os

    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    cuda = torch.cuda.is_available()
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if cuda
        else torch.device("cpu")
    )
    if world > 1:
        init_process_group("nccl" if cuda else "gloo")
    return rank, world, device


def agree(value: float, world: int) -> float:
    """The largest value over the processes: all ranks share one rate and stop together."""
    if world == 1:
        return value
    from torch.distributed import ReduceOp

    shared = torch.tensor(value, dtype=torch.float64)
    all_reduce(shared, op=ReduceOp.MAX)
    return float(shared)


def average_gradients(model: nn.Module, world: int) -> None:
    """One all-reduce over the concatenated gradients."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    all_reduce(flat)
    flat /= world
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


def prepare_tokenizer(
    texts: list[str], plan: Plan, out: Path, rank: int, world: int
) -> PreTrainedTokenizerFast:
    """Load OUT/tokenizer, or learn it on rank 0 first."""
    folder = out / "tokenizer"
    if rank == 0 and not folder.exists():
        train_tokenizer(texts, plan.vocab_size).save_pretrained(folder)
    agree(0.0, world)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """One flat id tensor; an end token follows each book."""
    flat: list[int] = []
    for text in texts:
        flat += tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return torch.from_numpy(np.asarray(flat, dtype=np.int64))


def build_model(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Stock Llama modules; the mask of `full_attention` makes them bidirectional."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden_size,
        intermediate_size=round(plan.hidden_size * 8 / 3 / 32) * 32,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        rope_theta=10000.0,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            nn.init.normal_(p, std=0.02 if "embed" in name else p.shape[1] ** -0.5)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(p)
    return model


def evaluate(
    model: LlamaForCausalLM,
    ema: dict[str, Tensor],
    held_ids: dict[str, Tensor],
    chars: dict[str, float],
    mask_token_id: int,
    state: dict[str, Any],
) -> None:
    """Append one line of held-out bounds (averaged weights) to the log."""
    row: dict[str, Any] = {k: round(state[k], 1) for k in ("step", "seconds", "tokens")}
    current = {name: p.detach().clone() for name, p in model.named_parameters()}
    swap(model, ema)
    for stem, ids in held_ids.items():
        blocks = ids[: len(ids) // 128 * 128].view(-1, 128)
        row[stem] = held_out_bound(
            model, blocks[:: max(1, len(blocks) // 192)], mask_token_id, chars[stem]
        )
    swap(model, current)
    state["log"].append(row)


@torch.no_grad()
def swap(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy `weights` into the model."""
    for name, p in model.named_parameters():
        p.copy_(weights[name])


def export(
    model: LlamaForCausalLM,
    ema: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
    plan: Plan,
    state: dict[str, Any],
    out: Path,
) -> None:
    """Write OUT/checkpoint: averaged 16-bit weights, tokenizer, training record."""
    folder = out / "checkpoint"
    current = {name: p.detach().clone() for name, p in model.named_parameters()}
    swap(model, ema)
    denoiser = LLaDADenoiser(model, mask_token_id=tokenizer.mask_token_id, tokenizer=tokenizer)
    denoiser.save_pretrained(folder, dtype="float16")
    swap(model, current)
    record = {
        "plan": asdict(plan),
        "train_books": TRAIN_BOOKS,
        "held_out_books": HELD_OUT_BOOKS,
        "log": state["log"],
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def save_state(
    path: Path,
    model: nn.Module,
    ema: dict[str, Tensor],
    optimizers: list[Any],
    state: dict[str, Any],
) -> None:
    """Publish the state atomically, so that a kill leaves the previous one intact."""
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            **state,
            "model": model.state_dict(),
            "ema": ema,
            "optimizers": [o.state_dict() for o in optimizers],
        },
        temporary,
    )
    temporary.replace(path)


def resume(
    path: Path,
    plan: Plan,
    model: nn.Module,
    ema: dict[str, Tensor],
    optimizers: list[Any],
    device: torch.device,
) -> dict[str, Any]:
    """Load the last state; refuse one that another plan wrote."""
    saved = torch.load(path, map_location=device, weights_only=True)
    if saved["plan"] != asdict(plan):
        raise SystemExit(
            f"{path} was written with {saved['plan']}, now {asdict(plan)}. Choose another --out."
        )
    model.load_state_dict(saved.pop("model"))
    for name, value in saved.pop("ema").items():
        ema[name].copy_(value)
    for optimizer, value in zip(optimizers, saved.pop("optimizers"), strict=True):
        optimizer.load_state_dict(value)
    return saved


if __name__ == "__main__":
    typer.run(main)
