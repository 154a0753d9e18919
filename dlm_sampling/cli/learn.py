"""Run `dlm-sampling learn`: fit coefficients and times of a solver to a model, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dlm_sampling.cli.exits import note
from dlm_sampling.cli.io import check_model
from dlm_sampling.errors import UsageError, unknown_choice


def learn(
    model: Annotated[str, typer.Argument(help="Embedded model, folder, or name on the hub.")],
    *,
    steps: Annotated[int, typer.Option(help="Planned steps of a block, forward passes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write; it must end in .json.")],
    base: Annotated[
        str, typer.Option(help="euler, tweedie, tau-leaping or theta-trapezoidal.")
    ] = "euler",
    schedule: Annotated[
        str | None, typer.Option(help="LogLinear, Cosine, HalfCosine...; default the solver's.")
    ] = None,
    teacher_steps: Annotated[
        int | None, typer.Option(help="Steps of the teacher, a multiple; default about 128.")
    ] = None,
    times: Annotated[
        bool, typer.Option("--times", help="Learn the times of the steps too (LSD+).")
    ] = False,
    fit: Annotated[str, typer.Option(help="closed, or gradient (Adam).")] = "closed",
    target: Annotated[
        str, typer.Option(help="interval: from one canvas; trajectory: two runs, as printed.")
    ] = "interval",
    divergence: Annotated[str, typer.Option(help="squared or score-entropy.")] = "squared",
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of texts; default 8, with gradient 200.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Texts per round.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens per text.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-2,
    seed: Annotated[int, typer.Option(help="The same seed repeats the run.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, auto; default a GPU if there is one.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, auto.")] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the checkpoint's own Python code.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Commit on the hub.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No closing line.")] = False,
) -> None:
    """Learn the coefficients (LSD) and times (LSD+) of a solver's steps for a model.

    The file goes into `dlm-sampling generate --sampler FILE.json` and `generate(sampler=...)`.  A
    killed run goes on where it was when the same command is given again.
    """
    if out.suffix != ".json":
        raise UsageError(f"--out {out}: must end in .json, by which --sampler knows it.")
    if out.parent != Path() and not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}.")
    from dlm_sampling import AutoDenoiser
    from dlm_sampling.learn import Learning, learn_sampler
    from dlm_sampling.samplers.lsd.saved import SCHEDULES, save_learned
    from dlm_sampling.samplers.lsd.solvers import LEARNED, Learned

    solvers: dict[str, type[Learned]] = {**LEARNED}
    if base not in solvers:
        raise UsageError(str(unknown_choice("--base", base, solvers)))
    chosen: dict[str, Any] = {}
    if schedule is not None:
        if schedule not in SCHEDULES:
            raise UsageError(str(unknown_choice("--schedule", schedule, SCHEDULES)))
        chosen["schedule"] = SCHEDULES[schedule]()
    free: dict[str, Any] = {"fit": fit, "target": target, "divergence": divergence}
    try:
        learning = Learning(
            steps=steps,
            teacher_steps=teacher_steps or max(4, -(-128 // max(1, steps))) * steps,
            length=length,
            rows=rows,
            rounds=rounds or (200 if fit == "gradient" else 8),
            times=times,
            learning_rate=learning_rate,
            seed=seed,
            **free,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    denoiser = AutoDenoiser.from_pretrained(
        check_model(model),
        dtype=dtype,
        device_map=device,
        trust_remote_code=trust_remote_code,
        revision=revision,
    )
    state = out.with_suffix(".state")
    learned = learn_sampler(denoiser, solvers[base](**chosen), learning, name=model, state=state)
    save_learned(learned, out)
    if not quiet:
        low, high = min(learned.phi), max(learned.phi)
        note(f"{out}: {base}, {steps} steps, coefficients {low:.3f} to {high:.3f}")
