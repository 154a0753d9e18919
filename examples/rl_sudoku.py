"""Train a masked diffusion model by GRPO on a reward that can be checked: a valid sudoku grid.

    python examples/rl_sudoku.py --seeds 0,1,2 --out runs/rl_sudoku
    python examples/rl_sudoku.py --model GSAI-ML/LLaDA-8B-Instruct --device cuda --lora 16

With 4 steps for 16 cells the model writes 4 cells at a time, as if they were independent, and
about one grid in five is a valid sudoku; after 200 updates, about two in three are.  The reward is
1 for a valid grid that keeps its clues and 0 otherwise, so it can be checked and not be flattered.
Grids come in groups of one puzzle; their tokens are scored by `replay` in the steps that wrote
them, and the loss keeps the policy near the model that it started from (k3).  After the last
update the valid share is measured on puzzles of another seed.  A killed command goes on at the
next seed.

Loss: Shao et al. 2024, arXiv:2402.03300; step-wise scores: Wang et al. 2025, arXiv:2509.06949.
A model with a tokenizer gets the puzzle as a text; its grid is read from the answer.
"""

import copy
import json
import re
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from dlm_sampling import AutoDenoiser, Denoiser, GenerateOutput, generate, replay
from dlm_sampling.embedded import embedded_models, embedded_path
from dlm_sampling.rl import as_reference, group_advantages, grpo_loss
from dlm_sampling.testing.sudoku import CELLS, MASK, SIDE, all_grids, is_valid


@dataclass(frozen=True)
class Settings:
    """What the runs share; written into the result file."""

    model: str = "sudoku4x4"
    updates: int = 200
    puzzles: int = 32
    group: int = 16
    clues: int = 2
    steps: int = 4
    inner: int = 1
    rate: float = 4e-4
    beta: float = 0.002
    shrink: int = 1
    lora: int = 0
    device: str = "cpu"


def puzzles(count: int, clues: int, generator: torch.Generator) -> Tensor:
    """Valid grids of which `clues` cells are shown, int64 [count, 16]; the rest is masked."""
    grids = all_grids()[torch.randint(288, (count,), generator=generator)]
    hidden = torch.rand(count, CELLS, generator=generator).argsort(1) >= clues
    return grids.masked_fill(hidden, MASK)


def as_text(puzzle: Tensor) -> str:
    """The puzzle as a question, for a model that reads language."""
    cells = "".join("_" if v == MASK else str(int(v) + 1) for v in puzzle)
    rows = "\n".join(cells[i : i + SIDE] for i in range(0, CELLS, SIDE))
    return f"Fill this 4x4 sudoku with the digits 1 to 4. Answer with 16 digits only.\n{rows}"


def write(policy: Denoiser, asked: Tensor, group: int, steps: int, seed: int) -> GenerateOutput:
    """Grids for every puzzle, `group` of each next to each other, with their rollout."""
    options: dict[str, Any] = {
        "sampler": "llada-random",
        "steps": steps,
        "temperature": 1.0,
        "top_p": 1.0,
        "num_return_sequences": group,
        "seed": seed,
        "return_rollout": True,
        "progress": False,
    }
    if policy.vocab_size == SIDE + 1:
        return generate(policy, asked, infill=True, eos="keep", **options)
    chats = [[{"role": "user", "content": as_text(puzzle)}] for puzzle in asked]
    return generate(policy, chats, max_new_tokens=2 * CELLS, eos="cut", **options)


def rewards(policy: Denoiser, out: GenerateOutput, asked: Tensor, group: int) -> Tensor:
    """1.0 for a valid grid with all clues, else 0.0, [puzzles x group]."""
    if policy.vocab_size == SIDE + 1:
        grids = out.tokens
    else:
        digits = [re.sub("[^1-4]", "", text)[:CELLS].ljust(CELLS, "1") for text in out.texts or []]
        grids = torch.tensor([[int(d) - 1 for d in text] for text in digits])
    wanted = asked.repeat_interleave(group, 0)
    kept = ((grids == wanted) | (wanted == MASK)).all(1)
    return (is_valid(grids.clamp(max=SIDE - 1)) & kept).float()


def load(settings: Settings) -> tuple[Denoiser, Callable[[], AbstractContextManager[Denoiser]]]:
    """The policy, and a context in which the model that it started from answers."""
    policy = AutoDenoiser.from_pretrained(settings.model).to(settings.device)
    if policy.module is None:
        raise SystemExit(f"{settings.model} has no weights to train.")
    if settings.lora:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=settings.lora, target_modules="all-linear")
        policy.module = get_peft_model(policy.module, config)
        return policy, lambda: as_reference(policy)
    first = copy.deepcopy(policy)
    return policy, lambda: nullcontext(first)


def train(settings: Settings, seed: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Run one seed; the curve of mean rewards, and the valid share on puzzles of another seed."""
    torch.manual_seed(seed)
    policy, reference = load(settings)
    assert policy.module is not None
    weights = [p for p in policy.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.rate, weight_decay=0.0)
    fresh, held = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(10_000 + seed)
    asked_later = puzzles(64, settings.clues, held)

    def valid_share() -> float:
        out = write(policy, asked_later, 4, settings.steps, 77)
        return float(rewards(policy, out, asked_later, 4).mean())

    before, begin, curve = valid_share(), time.perf_counter(), list[dict[str, float]]()
    for update in range(settings.updates):
        asked = puzzles(settings.puzzles, settings.clues, fresh)
        drawn = 1_000_003 * seed + update
        out = write(policy, asked, settings.group, settings.steps, drawn)
        rollout = out.rollout
        assert rollout is not None
        drawn_with = rollout.logprob.to(policy.device)
        reward = rewards(policy, out, asked, settings.group)
        advantage = group_advantages(reward, settings.group).to(policy.device)
        with torch.no_grad():
            # Steps that are scored together have other log-probabilities than they were drawn with.
            merged = settings.shrink > 1
            old = replay(policy, rollout, shrink=settings.shrink).logprob if merged else drawn_with
            with reference() as start:
                known = replay(start, rollout, shrink=settings.shrink).logprob
        where = (rollout.step_index >= 0).to(policy.device)
        for _ in range(settings.inner):
            new = replay(policy, rollout, shrink=settings.shrink).logprob
            found = grpo_loss(new, old, advantage, where, reference=known, beta=settings.beta)
            optimizer.zero_grad()
            found.loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
        curve.append({"reward": float(reward.mean()), "divergence": float(found.divergence)})
        if update % 10 == 9:
            mean = sum(point["reward"] for point in curve[-10:]) / 10
            report(f"seed {seed}, update {update + 1}: valid {mean:.3f}")
    seconds = time.perf_counter() - begin
    return {
        "seed": seed,
        "before": before,
        "after": valid_share(),
        "seconds": round(seconds, 1),
        "curve": curve,
    }


def picture(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw the mean reward of every seed over the updates."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2))
    for run in runs:
        reward = torch.tensor([point["reward"] for point in run["curve"]])
        width = min(10, len(reward))
        smooth = reward.unfold(0, width, 1).mean(1)
        axes.plot(range(width, len(reward) + 1), smooth, label=f"seed {run['seed']}")
    axes.set(xlabel="update", ylabel="valid grids (mean of 10 updates)", ylim=(0, 1))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main(
    model: Annotated[str, typer.Option(help="Embedded model, hub name or folder.")] = "sudoku4x4",
    *,
    seeds: Annotated[str, typer.Option(help="Seeds of the runs, with commas between.")] = "0,1,2",
    updates: int = 200,
    puzzles_per_update: int = 32,
    group: Annotated[int, typer.Option(help="Grids per puzzle.")] = 16,
    clues: int = 2,
    steps: Annotated[int, typer.Option(help="Steps of a grid; fewer make it harder.")] = 4,
    rate: float = 4e-4,
    inner: Annotated[int, typer.Option(help="Steps of the optimiser per update.")] = 1,
    beta: Annotated[float, typer.Option(help="Weight of the divergence to the start.")] = 0.002,
    shrink: Annotated[int, typer.Option(help="Steps that one pass scores.")] = 1,
    lora: Annotated[int, typer.Option(help="Rank of an adapter; 0 trains all weights.")] = 0,
    device: str = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Write OUT.json and OUT.svg; goes on with OUT.json.")
    ] = None,
) -> None:
    """Train, print the valid share before and after, and write curve and picture."""
    settings = Settings(
        model=model, updates=updates, puzzles=puzzles_per_update, group=group, clues=clues,
        steps=steps, inner=inner, rate=rate, beta=beta, shrink=shrink, lora=lora, device=device,
    )  # fmt: skip
    wrong = unfit(settings)
    if wrong:
        print(f"Error: {wrong}", file=sys.stderr)
        raise typer.Exit(2)
    file = None if out is None else out.with_suffix(".json")
    runs = finished(settings, file)
    for seed in map(int, seeds.split(",")):
        if seed not in runs:
            runs[seed] = train(settings, seed, print)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                content = {
                    "command": shlex.join(["python", *sys.argv]),
                    "settings": asdict(settings), "runs": [*runs.values()],
                }  # fmt: skip
                file.write_text(json.dumps(content) + "\n", encoding="utf-8")
    for seed, run in runs.items():
        print(f"seed {seed}: {run['before']:.3f} -> {run['after']:.3f} valid")
    if out is not None:
        picture([*runs.values()], out.with_suffix(".svg"))


def unfit(settings: Settings) -> str:
    """What keeps the settings from a run, told before a model is loaded; "" if nothing does."""
    if settings.group < 2:
        return f"--group {settings.group}: must be at least 2; one grid alone has no advantage."
    if settings.model in embedded_models():
        config = json.loads((embedded_path(settings.model) / "config.json").read_text("utf-8"))
        if config["vocab_size"] != SIDE + 1:
            return (
                f"--model {settings.model}: must be sudoku4x4 or a chat model, such as "
                "GSAI-ML/LLaDA-8B-Instruct; this one continues English texts."
            )
    return ""


def finished(settings: Settings, file: Path | None) -> dict[int, dict[str, Any]]:
    """The runs of a result file that has these settings, by seed: a killed command goes on."""
    if file is None or not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["settings"] != asdict(settings):
        raise SystemExit(f"{file} has other settings: {content['settings']}. Name another --out.")
    return {run["seed"]: run for run in content["runs"]}


if __name__ == "__main__":
    typer.run(main)
