"""Write with our samplers through transformers' `model.generate(custom_generate=...)`.

    from dlm_sampling import diffusion_generate, save_custom_generate

    model.generate(**inputs, custom_generate=diffusion_generate, sampler="remdm-cap", steps=64,
                   max_new_tokens=64)

    save_custom_generate("folder", sampler="remdm-cap", steps=64)     # may hold a checkpoint, too
    model.generate(**inputs, custom_generate="folder", trust_remote_code=True, max_new_tokens=64)

The first form is a call of `dlm_sampling.generate` on the model at hand.  The second is a folder
(or hub repository) that transformers runs by itself: `custom_generate/generate.py` with the chosen
options, for people who have this package and never call it.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlm_sampling.denoisers.checkpoints.settings import listed_ids, setting
from dlm_sampling.denoisers.modes import evaluating
from dlm_sampling.denoisers.transformers_model import denoiser_of
from dlm_sampling.engine.request import BlockRequest
from dlm_sampling.errors import check_arguments, check_flag, check_whole
from dlm_sampling.samplers import create
from dlm_sampling.text.arguments import Ids
from dlm_sampling.text.generate import generate
from dlm_sampling.types import Sampler

FOLDER = "custom_generate"
DRAWN = frozenset(
    {
        *("EtaLogitsWarper", "MinPLogitsWarper", "RepetitionPenaltyLogitsProcessor"),
        *("TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper"),
        "TypicalLogitsWarper",
    }
)
"""Processors of transformers that our token law replaces."""
ENDED = frozenset({"EosTokenCriteria", "MaxLengthCriteria"})
"""Stopping criteria of transformers that our own ends of rows replace."""
UNREAD = (
    *("constraints", "dola_layers", "force_words_ids", "output_attentions"),
    *("output_hidden_states", "output_logits", "output_scores", "penalty_alpha"),
    "prompt_lookup_num_tokens",
)
"""Settings of transformers that ask for another algorithm or for further outputs."""
LAW = ("temperature", "top_k", "top_p", "min_p", "typical_p", "eta_cutoff")
SCRIPT = '''"""Write with a sampler for diffusion language models; made by dlm_sampling."""

from dlm_sampling.text.custom_generate import run_with

OPTIONS = {options}


def generate(*inputs, model, **given):
    """Run `model.generate` with these options, unless the caller gives others."""
    return run_with(model, inputs, OPTIONS, given)
'''


def diffusion_generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: Iterable[Any] = (),
    stopping_criteria: Iterable[Any] = (),
    generation_config: Any = None,
    *,
    sampler: str | Sampler[Any] | None = None,
    sampler_options: Mapping[str, Any] | None = None,
    steps: int | None = None,
    block_length: int | None = None,
    seed: Ids | None = None,
    mask_token_id: int | None = None,
    shifted: bool = False,
    **model_kwargs: Any,
) -> Tensor:
    """Generate on behalf of `model.generate(..., custom_generate=diffusion_generate)`.

    The lengths, special ids and `num_return_sequences` (which transformers takes with
    `do_sample=True` only) are those of the generation config.  With
    `do_sample=True` its temperature, top_k (50 unless told otherwise), top_p, min_p, typical_p and
    eta_cutoff make the token law; without, the sampler's own law holds.  Its repetition_penalty
    counts in both cases.  transformers itself hands on neither a streamer nor an assistant model.

    Args:
        model: bidirectional; see `denoisers.transformers_model.denoiser_of`.
        input_ids: int64 [B, L], padded on the left.
        logits_processor: as transformers prepares them.
        stopping_criteria: as transformers prepares them.
        generation_config: as transformers prepares it.
        sampler: see `dlm_sampling.generate`, as for the following four.
        sampler_options: parameters of a sampler given by name.
        steps: planned steps.
        block_length: write blocks of this many positions.
        seed: default a random number, whatever torch's global generator is set to.
        mask_token_id: the mask id, where neither config has it.
        shifted: whether the logits at position i score token i + 1, as in Dream's own code.
        model_kwargs: attention_mask is read; what else transformers prepares for the network is
            not used, as no state is kept between passes.

    Returns:
        int64 [B, L + new], as transformers returns it: the end-of-text stays, padding follows.

    Raises:
        ValueError: transformers was asked for something that these samplers do not have, such as
            beams, penalties, scores; or the model attends causally; or see `generate`.
    """
    refuse(generation_config, logits_processor, stopping_criteria)
    law: dict[str, Any] = {
        "repetition_penalty": setting(generation_config, "repetition_penalty", object)
    }
    if generation_config.do_sample:
        law |= {name: setting(generation_config, name, object) for name in LAW}
        law |= {name: law[name] or None for name in ("top_k", "eta_cutoff")}  # 0 keeps all there
    mask = model_kwargs.get("attention_mask")
    with evaluating(model):
        denoiser = denoiser_of(
            model,
            mask_token_id=mask_token_id,
            shifted=shifted,
            generation_config=generation_config,
        )
        out = generate(
            denoiser,
            input_ids,
            attention_mask=None if mask is None else mask.bool(),
            max_new_tokens=generation_config.max_length - input_ids.shape[1],
            sampler=sampler,
            sampler_options=sampler_options,
            steps=steps,
            block_length=block_length,
            seed=seed,
            infill=False,
            eos="stop",
            eos_token_id=listed_ids(generation_config, "eos_token_id") or None,
            progress=False,
            **law,
        )
    ends = zip(out.token_ids, out.finish_reasons, strict=True)
    written = max(len(ids) + (reason == "eos") for ids, reason in ends)
    first = max(out.prompt_lengths)
    new = out.sequences[:, first : first + written].to(input_ids.device)
    return torch.cat((input_ids, new), dim=1)


def refuse(config: Any, processors: Iterable[Any], criteria: Iterable[Any]) -> None:
    """Refuse what transformers was asked for and a diffusion sampler would pass over.

    Raises:
        ValueError: the message names it.
    """
    asked = {type(part).__name__ for part in processors} - DRAWN
    asked |= {type(part).__name__ for part in criteria} - ENDED
    asked |= {name for name in UNREAD if setting(config, name, object)}
    if config.num_beams > 1:
        asked.add(f"num_beams={config.num_beams}")
    if config.return_dict_in_generate:
        asked.add("return_dict_in_generate=True")
    if asked:
        raise ValueError(
            f"custom_generate: {', '.join(sorted(asked))} is not for these samplers; leave it out, "
            "or call dlm_sampling.generate(denoiser_of(model), ...), which has stop strings, "
            "suppressed tokens, guidance and log-probabilities of its own."
        )


def run_with(
    model: Any, inputs: tuple[Any, ...], options: Mapping[str, Any], given: Mapping[str, Any]
) -> Tensor:
    """Call `model.generate` with `diffusion_generate`, for the script in a saved folder.

    Args:
        model: the model that transformers passes to the script.
        inputs: its positional arguments.
        options: the saved options.
        given: the caller's arguments, which replace the saved ones.

    Raises:
        ValueError: a streamer was given, which transformers does not hand on.
    """
    if given.get("streamer") is not None:
        raise ValueError(
            "streamer: transformers hands none on to custom_generate; call dlm_sampling.generate("
            "denoiser_of(model), ..., streamer=streamer)."
        )
    merged = {**options, **given, "custom_generate": diffusion_generate}
    # A model that was loaded from the folder has the script itself as its own `generate`.
    kind: Any = model.__class__
    return kind.generate(model, *inputs, **merged)


def save_custom_generate(folder: str | Path, **options: Any) -> Path:
    """Write a folder for `model.generate(custom_generate=folder, trust_remote_code=True)`.

    A checkpoint may lie in the same folder: `AutoModel....from_pretrained(folder,
    trust_remote_code=True)` then gives a model whose `generate` writes with these options.

    Args:
        folder: created if needed; files in it stay.
        options: sampler, sampler_options, steps, block_length, seed, mask_token_id, shifted; see
            `diffusion_generate`.

    Returns:
        The path of the script.

    Raises:
        TypeError, ValueError: the folder is no path, an option does not exist, or is no plain
            value.
    """
    if not isinstance(folder, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"folder={folder!r}: must be the path of a folder.")
    check_arguments(options, diffusion_generate.__kwdefaults__ or ())
    BlockRequest(options.get("block_length"), options.get("steps"))
    check_flag("shifted", options.get("shifted", False))
    check_whole("mask_token_id", options.get("mask_token_id"), optional=True)
    chosen = options.get("sampler")
    if isinstance(chosen, str):
        create(chosen, **(options.get("sampler_options") or {}))
    plain = repr(options)
    try:
        same = literal_eval(plain) == options
    except (SyntaxError, ValueError):
        same = False
    if not same:
        raise TypeError(
            f"options={plain}: must be numbers, texts, lists and mappings, which can be written "
            "down; give the sampler by name, with sampler_options."
        )
    place = Path(folder) / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    (place / "requirements.txt").write_text("dlm-sampling\n", encoding="utf-8")
    script = place / "generate.py"
    script.write_text(SCRIPT.format(options=plain), encoding="utf-8")
    return script
