"""Train the causal judge that ships with the evaluation, on books that no embedded model has seen.

    python examples/train_judge.py --books PATH/TO/books --out runs/judge

The network is a small GPT-2 through transformers, with a byte-level BPE of its own; the loss is the
usual one, the mean over tokens of -log p(x_i | x_<i).  Training books are disjoint from those of
the embedded models and from the held-out ones.  Killed runs resume from `OUT/state.pt`: run the
same command.  The last step writes `OUT/checkpoint`: averaged weights in float16, the tokenizer,
and `training.json` with the perplexity of the held-out books.
"""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
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
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

JUDGE_BOOKS = (
    "anna-sewell_black-beauty",
    "charles-dickens_a-christmas-carol",
    "e-nesbit_five-children-and-it",
    "e-nesbit_the-enchanted-castle",
    "e-nesbit_the-phoenix-and-the-carpet",
    "e-nesbit_the-railway-children",
    "e-nesbit_the-story-of-the-amulet",
    "e-nesbit_the-story-of-the-treasure-seekers",
    "frances-hodgson-burnett_a-little-princess",
    "frances-hodgson-burnett_little-lord-fauntleroy",
    "frances-hodgson-burnett_the-secret-garden",
    "jack-london_white-fang",
    "kenneth-grahame_the-wind-in-the-willows",
    "l-m-montgomery_anne-of-avonlea",
    "l-m-montgomery_anne-of-green-gables",
    "mark-twain_the-adventures-of-tom-sawyer",
    "robert-louis-stevenson_treasure-island",
    "rudyard-kipling_the-jungle-book",
)
END = "<|endoftext|>"
WARMUP, DECAY, AVERAGE = 30, 0.7, 0.99


@dataclass(frozen=True)
class Plan:
    """What fixes the run; saved with the state and compared when a run resumes."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    length: int
    batch_size: int
    minutes: float
    lr: float
    seed: int


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE on the training books; the last id ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=END, eos_token=END)


def build_model(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Build GPT-2 blocks that begin as the identity: output projections are zero."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=plan.length,
        n_embd=plan.hidden_size,
        n_layer=plan.layers,
        n_head=plan.heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    for name, p in model.named_parameters():
        if name.endswith(("c_attn.weight", "c_fc.weight")):
            nn.init.normal_(p, std=p.shape[0] ** -0.5)
        elif name.endswith("c_proj.weight"):
            nn.init.zeros_(p)
    return model


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    """Mean of -log p(x_i | x_<i) over tokens 2..n of each row, nats."""
    logits = model(input_ids=x, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1).float(), x[:, 1:].flatten())


@torch.no_grad()
def held_out(model: nn.Module, ids: Tensor, length: int, characters: int) -> dict[str, float]:
    """Measure a book in windows of `length` tokens, tokens 2..length of each."""
    windows = ids[: len(ids) // length * length].view(-1, length)
    nats = sum(float(loss_of(model, rows)) * len(rows) for rows in windows.split(8)) / len(windows)
    return {
        "nats_per_token": round(nats, 4),
        "perplexity": round(math.exp(nats), 2),
        "bits_per_char": round(nats * len(ids) / characters / math.log(2), 4),
    }


def main(
    books: Annotated[Path, typer.Option(help="Folder of plain-text books.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the state and the log.")],
    minutes: Annotated[
        float, typer.Option(help="Training time; the learning rate decays to zero over it.")
    ] = 28.0,
    vocab_size: int = 2048,
    hidden_size: int = 128,
    layers: int = 3,
    heads: int = 4,
    length: Annotated[int, typer.Option(help="Tokens per window; the judge's limit.")] = 512,
    batch_size: int = 4,
    lr: float = 0.004,
    seed: int = 0,
    save_every: Annotated[float, typer.Option(help="Minutes between saved states.")] = 2.0,
) -> None:
    """Train, measure the held-out books, and write a checkpoint that transformers loads."""
    if set(JUDGE_BOOKS) & {*TRAIN_BOOKS, *HELD_OUT_BOOKS}:
        raise SystemExit("JUDGE_BOOKS: a book of the models or of the held-out set is among them.")
    plan = Plan(vocab_size, hidden_size, layers, heads, length, batch_size, minutes, lr, seed)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    texts = read_books(books, JUDGE_BOOKS)
    if not (out / "tokenizer").exists():
        train_tokenizer(texts, vocab_size).save_pretrained(out / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer")
    ids = encode(tokenizer, texts)
    model = build_model(plan, tokenizer)
    ema = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    state: dict[str, Any] = {"plan": asdict(plan), "step": 0, "seconds": 0.0, "tokens": 0}
    if (out / "state.pt").exists():
        state = resume(out / "state.pt", plan, model, ema, [optimizer], torch.device("cpu"))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters, {len(ids)} tokens")

    smooth = math.nan
    bar = tqdm(
        total=minutes * 60,
        initial=state["seconds"],
        mininterval=5.0,
        bar_format="{l_bar}{bar}| {postfix}",
    )
    last_save = state["seconds"]
    while (progress := state["seconds"] / (minutes * 60)) < 1.0:
        began = time.monotonic()
        step = state["step"]
        factor = min(1.0, (step + 1) / WARMUP) * min(1.0, (1 - progress) / DECAY)
        optimizer.param_groups[0]["lr"] = lr * factor
        generator = torch.Generator().manual_seed((seed << 32) + step)
        starts = torch.randint(0, len(ids) - length, (batch_size,), generator=generator)
        x = torch.stack([ids[s : s + length] for s in starts])
        loss = loss_of(model, x)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, p in model.named_parameters():
                ema[name].lerp_(p, 1 - decay)
        value = float(loss.detach())
        smooth = value if math.isnan(smooth) else 0.95 * smooth + 0.05 * value
        state["step"] += 1
        state["tokens"] += x.numel()
        elapsed = time.monotonic() - began
        state["seconds"] += elapsed
        bar.update(elapsed)
        bar.set_postfix_str(f"step {step + 1} loss {smooth:.3f}", refresh=False)
        if state["seconds"] - last_save > save_every * 60:
            last_save = state["seconds"]
            save_state(out / "state.pt", model, ema, [optimizer], state)
    bar.close()
    save_state(out / "state.pt", model, ema, [optimizer], state)
    swap(model, ema)
    export(model, tokenizer, books, plan, state, out / "checkpoint")


def export(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    books: Path,
    plan: Plan,
    state: dict[str, Any],
    folder: Path,
) -> None:
    """Write 16-bit weights, tokenizer and training record, measured as they are stored."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stored = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    measured = {}
    for stem in HELD_OUT_BOOKS:
        texts = read_books(books, (stem,))
        ids = encode(tokenizer, texts)
        measured[stem] = held_out(stored, ids, plan.length, len(texts[0]))
    record = {
        "plan": asdict(plan),
        "steps": state["step"],
        "tokens": state["tokens"],
        "train_books": JUDGE_BOOKS,
        "held_out": measured,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    typer.run(main)
