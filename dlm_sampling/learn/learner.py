"""Learn the coefficients and times of a solver's steps from its own finer grid: LSD and LSD+.

    LSD   phi_k minimises the distance of phi_k a_k from what the teacher does; see `targets`
    LSD+  first kappa_k = phi_k (t_k - t_{k+1}), clamped to >= 0 and scaled down to a sum of at most
          1 - t_end, makes the times t_{k+1} = t_k - kappa_k; then phi is learnt on these times

The teacher is the same network under the same solver with N >> M steps; the student's times are
among the teacher's.  The paper prints the target of kappa with the teacher's step (1 - t_end) / N
as its factor, which would draw kappa to the teacher's step length; here the target is what the
teacher does over the whole of the student's step.  Where the grid ends before t_end, the noise
removal writes what is left.  "Learnable Sampler Distillation for Discrete Diffusion Models",
arXiv:2509.19962.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

import torch

from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.checks import check_denoiser
from dlm_sampling.engine.fit import check_fit
from dlm_sampling.errors import unknown_choice
from dlm_sampling.learn.learning_run import LearningRun
from dlm_sampling.learn.settings import Learning, LearningFields
from dlm_sampling.samplers.lsd.learned_steps import LearnedSteps
from dlm_sampling.samplers.lsd.saved import LearnedFile, options_of, schedule_record
from dlm_sampling.samplers.lsd.solvers import LEARNED, BaseName, Learned


def learn_sampler(
    denoiser: Denoiser,
    base: BaseName | Learned = "euler",
    learning: Learning | None = None,
    *,
    name: str | None = None,
    state: Path | None = None,
    progress: bool | None = None,
    **fields: Unpack[LearningFields],
) -> LearnedFile:
    """Learn the coefficients of a solver's steps on a model.

    Args:
        denoiser: the model; its weights are not changed.
        base: the solver, by name with its defaults, or `samplers.LearnedEuler(...)` and the like.
        learning: settings of the fit; or give its fields as keyword arguments, at least `steps`.
        name: of the model, for the file.
        state: file that is written after every round and read when there is one, so that a killed
            run goes on where it was; it is removed at the end.
        progress: show a bar; default on a terminal.
        fields: fields of `Learning`.

    Returns:
        What `samplers.save_learned` writes and `generate(sampler="x.json")` takes; `.build()` is
        the sampler.

    Raises:
        ValueError, TypeError: an argument is out of range, unknown, or does not fit the model; or
            `state` belongs to another run.

    NFE: rows * rounds * about N, twice that with `times`.  Memory: a few tables of
        rows * length * vocab_size numbers of 8 bytes; take fewer rows where that is too much.
    """
    if learning is not None:
        how = replace(learning, **fields)
    elif "steps" in fields:
        how = Learning(**fields)
    else:
        raise TypeError("steps: must be given, the planned steps of a block; try steps=8.")
    check_denoiser(denoiser)
    solver = _solver(base)
    check_fit(denoiser, solver, 0.0)
    number, odd = divmod(how.steps, solver.passes)
    if odd:
        raise ValueError(
            f"steps={how.steps}: this solver takes {solver.passes} forward passes per interval; "
            f"must be a multiple of {solver.passes}."
        )
    model = {"name": name or denoiser.family, "sha256": fingerprint(denoiser)}
    described: dict[str, Any] = {
        "base": next(key for key, kind in LEARNED.items() if kind is type(solver)),
        "schedule": schedule_record(solver.schedule),
        "options": options_of(solver),
        "t_end": solver.t_end,
    }
    settings = {**described, "model": model, "learning": asdict(how)}
    run = LearningRun(denoiser, solver, how, number, settings, state)
    phi, times, nfe = run.run(progress)
    described.pop("t_end")
    return LearnedFile(
        process=denoiser.process.name,
        steps=how.steps,
        t_grid=times,
        phi=phi,
        pred_kind=denoiser.kind,
        model=model,
        learning={**asdict(how), "nfe": nfe},
        **described,
    )


def _solver(base: BaseName | Learned) -> Learned:
    if isinstance(base, str):
        if base not in LEARNED:
            raise unknown_choice("base", base, tuple(LEARNED))
        return LEARNED[base]()
    if base.learned != LearnedSteps():
        raise ValueError("base: has learned numbers already; pass the solver without `learned`.")
    return base


def fingerprint(denoiser: Denoiser) -> str | None:
    """Return 16 digits of the SHA-256 of the network's weights, or None without a network."""
    if denoiser.module is None:
        return None
    digest = hashlib.sha256()
    for name, weight in sorted(denoiser.module.named_parameters()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(
            weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]
