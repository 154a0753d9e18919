"""Measure time and memory of a rollout and of an update, against recomputations of d1 and TraceRL.

    python -m dlm_eval.likelihood.updates --out eval/results/updates.json

One network of LLaDA's layout with random weights; every method computes the policy gradient of the
same rollout.  TraceRL's recomputation runs a copy of each canvas per step, d1's a single copy with
the answer masked; both make the logits of all columns, and are written here after the papers
(arXiv:2509.06949, arXiv:2504.12216).  They give the log-probabilities of `replay` and of
`mean_field_logprob`, which is checked.  Processor seconds of one thread, the fastest of some runs;
memory is the growth of the peak resident set, each method in a process of its own, above that of a
backward pass over three numbers.  Throughput is that of the answers' tokens.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from dlm_eval.program import check_result, command_of, start
from dlm_sampling import Rollout, replay, sample, samplers
from dlm_sampling.denoisers import LLaDADenoiser
from dlm_sampling.rl import mean_field_logprob
from dlm_sampling.types import TokenLaw


@dataclass(frozen=True)
class Sizes:
    """Hold the sizes of network and canvas."""

    vocab: int = 32768
    width: int = 128
    layers: int = 4
    prompt: int = 32
    new: int = 32
    rows: int = 4
    steps: int = 8


@dataclass(frozen=True)
class Task:
    """Hold a network and a rollout of it."""

    denoiser: LLaDADenoiser
    rollout: Rollout
    sizes: Sizes

    @property
    def weight(self) -> Tensor:
        """Return the weight of each row in the loss, [B, 1]: advantages, over all tokens."""
        sign = 1.0 - 2.0 * (torch.arange(self.sizes.rows) % 2)
        return sign.unsqueeze(1) / (self.sizes.rows * self.sizes.new)

    @property
    def mask(self) -> int:
        """Return the mask id."""
        return self.sizes.vocab - 1

    def logits(self, tokens: Tensor) -> Tensor:
        """Return the logits of all columns, [B, L, V]."""
        return self.denoiser.logits(tokens)[..., : self.mask]

    def backward(self, logprob: Tensor) -> None:
        """Add the gradient of the loss of some log-probabilities [B, L]."""
        (-(self.weight * logprob).sum()).backward()


def drawn(sizes: Sizes) -> tuple[LLaDADenoiser, Callable[[], Rollout]]:
    """Return the network, and a function that draws the rollout."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=sizes.vocab, hidden_size=sizes.width, intermediate_size=4 * sizes.width,
        num_hidden_layers=sizes.layers, num_attention_heads=4, tie_word_embeddings=False,
        max_position_embeddings=sizes.prompt + sizes.new,
    )  # fmt: skip
    denoiser = LLaDADenoiser(LlamaForCausalLM(config), mask_token_id=sizes.vocab - 1)
    ids = torch.randint(sizes.vocab - 1, (sizes.rows, sizes.prompt + sizes.new))
    editable = torch.zeros_like(ids).bool()
    editable[:, sizes.prompt :] = True

    def draw() -> Rollout:
        out = sample(
            denoiser, samplers.LLaDA(order="random"), ids, editable, seeds=range(sizes.rows),
            steps=sizes.steps, law=TokenLaw(), return_trajectory=True,
        )  # fmt: skip
        return Rollout.from_output(out)

    return denoiser, draw


def by_replay(task: Task, **options: Any) -> Tensor:
    """Score and go backward by `replay`; returns log-probabilities [B, L]."""
    logprob = replay(task.denoiser, task.rollout, **options).logprob
    task.backward(logprob)
    return logprob.detach()


def by_windows(task: Task) -> Tensor:
    """Score and go backward one step at a time."""
    found = torch.zeros(task.rollout.tokens.shape)
    for step in range(task.sizes.steps):
        found += by_replay(task, window=(step, step + 1))
    return found


def checkpointed(task: Task) -> Tensor:
    """Score by `replay` with gradient checkpointing."""
    network: Any = task.denoiser.module
    network.gradient_checkpointing_enable()
    return by_replay(task)


def as_tracerl(task: Task) -> Tensor:
    """Score a copy of each canvas per step, in one micro-batch per step."""
    tokens, steps = task.rollout.tokens, task.rollout.step_index
    found = torch.zeros(tokens.shape)
    for step in range(task.sizes.steps):
        canvas = torch.where(steps >= step, task.mask, tokens)
        law = task.logits(canvas).float().log_softmax(-1)
        chosen = law.gather(2, tokens.clamp(max=task.mask - 1).unsqueeze(2)).squeeze(2)
        logprob = torch.where(steps == step, chosen, 0.0)
        task.backward(logprob)
        found += logprob.detach()
    return found


def as_d1(task: Task) -> Tensor:
    """Score one copy whose answer is masked."""
    tokens, editable = task.rollout.tokens, task.rollout.editable
    logits = task.logits(tokens.masked_fill(editable, task.mask)).float()
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens.clamp(max=task.mask - 1).flatten(), reduction="none"
    )
    logprob = torch.where(editable, -loss.view(tokens.shape), 0.0)
    task.backward(logprob)
    return logprob.detach()


def by_mean_field(task: Task) -> Tensor:
    """Score the same by `mean_field_logprob`."""
    logprob = mean_field_logprob(
        task.denoiser, task.rollout.tokens, editable=task.rollout.editable, prompt_masking=0.0,
        seed=0,
    )  # fmt: skip
    task.backward(logprob)
    return logprob.detach()


METHODS: dict[str, Callable[[Task], Tensor]] = {
    "TraceRL's recomputation": as_tracerl,
    "replay": by_replay,
    "replay, a window at a time": by_windows,
    "replay, checkpointing": checkpointed,
    "replay, shrink=4": lambda task: by_replay(task, shrink=4),
    "replay, window of 2 steps": lambda task: by_replay(task, window=(0, 2)),
    "d1's recomputation": as_d1,
    "mean_field_logprob": by_mean_field,
}
SAME = ({"TraceRL's recomputation", "replay", "replay, a window at a time"},
        {"d1's recomputation", "mean_field_logprob"})  # fmt: skip


def resident(name: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def trivial() -> None:
    """Go backward over three numbers, which loads what any backward pass needs."""
    torch.zeros(3, requires_grad=True).sum().backward()


def give_back_memory() -> None:
    """Let large blocks go back to the system when they are freed, so that growth is seen."""
    system: Any = ctypes.CDLL(None)
    system.mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD; a fixed one does not grow
    system.malloc_trim(0)


def peak(work: Callable[[], object]) -> float:
    """Return the growth of the peak resident set in a forked process, in 10^6 bytes."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def run(answer: Connection) -> None:
        before = resident("VmRSS")
        work()
        answer.send(resident("VmHWM") - before)

    child = multiprocessing.get_context("fork").Process(target=run, args=(theirs,))
    child.start()
    grown = ours.recv()
    child.join()
    return grown / 1e6


def fastest(work: Callable[[], object], repeats: int) -> float:
    """Return the least processor seconds of some calls."""
    best = float("inf")
    for _ in range(repeats):
        begun = time.process_time()
        work()
        best = min(best, time.process_time() - begun)
    return best


def rows_of(
    seconds: dict[str, float], memory: dict[str, float], sizes: Sizes
) -> list[dict[str, Any]]:
    """Return the measurements of each method, and their shares of those of TraceRL and of d1."""
    rows: list[dict[str, Any]] = []
    for name in seconds:
        row: dict[str, Any] = {
            "method": name,
            "seconds": seconds[name],
            "tokens_per_second": sizes.rows * sizes.new / seconds[name],
            "peak_mb": memory[name],
        }
        for short, base in (("tracerl", "TraceRL's recomputation"), ("d1", "d1's recomputation")):
            row[f"seconds_of_{short}"] = seconds[name] / seconds[base]
            row[f"memory_of_{short}"] = memory[name] / memory[base]
        rows.append(row)
    return rows


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")],
    repeats: Annotated[int, typer.Option(min=1, help="Runs, of which the fastest counts.")] = 3,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small sizes, to try the script.")] = False,
) -> None:
    """Measure all methods and write the file."""
    check_result(out)
    torch.set_num_threads(1)
    sizes = Sizes(64, 16, 1, 4, 4, 2, 2) if tiny else Sizes()
    denoiser, draw = drawn(sizes)
    network: Any = denoiser.module
    task = Task(denoiser, draw(), sizes)
    values: dict[str, Tensor] = {}
    works: dict[str, Callable[[], object]] = {"rollout": draw}
    for name, method in METHODS.items():

        def work(name: str = name, method: Callable[[Task], Tensor] = method) -> None:
            network.zero_grad(set_to_none=True)
            values[name] = method(task)
            network.gradient_checkpointing_disable()

        works[name] = work
    seconds = {name: fastest(work, repeats) for name, work in works.items()}
    give_back_memory()  # after the times, as it makes every allocation slower
    least = peak(trivial)
    memory = {name: peak(work) - least for name, work in works.items()}
    for names in SAME:
        first, *others = (values[name] for name in sorted(names))
        for other in others:
            torch.testing.assert_close(other, first, rtol=0, atol=1e-4)
    rows = rows_of(seconds, memory, sizes)
    machine = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__}
    table = {
        "command": command_of("dlm_eval.likelihood.updates"),
        "sizes": asdict(sizes), "machine": machine, "threads": 1, "runs": rows,
    }  # fmt: skip
    out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    start(main)
