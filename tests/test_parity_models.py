"""Every recorded forward pass of the authors' code, repeated by the native denoisers.

Reads the folder named by DLM_FIXTURES (default: the copies beside this file), sub-folder `models`;
its README says what the files hold.  Every case of every folder is run or reported:

- a folder whose family is not built yet is an expected failure that names it;
- behaviour that the originals show only by accident ("quirk") is an expected failure: it must
differ.

`-rA` shows the largest difference of each case.
"""

import copy
import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from dlm_sampling.denoisers import AutoDenoiser, CheckpointError, DDPDPlanner, Denoiser
from dlm_sampling.denoisers.auto import load_families
from dlm_sampling.denoisers.columns import queried
from dlm_sampling.denoisers.networks.block_causal import as_bias, block_causal_bias
from dlm_sampling.denoisers.registry import family_of
from dlm_sampling.types import Pass
from tests.denoisers.layers import run_layers

MODELS = Path(os.environ.get("DLM_FIXTURES", Path(__file__).parent / "fixtures")) / "models"
TOLERANCE = 1e-3
OPTIONS: dict[str, dict[str, Any]] = {"llada2_moe": {"mask_token_id": 126}}
"""What the published config does not say and the miniature has otherwise than the release."""
FOLDERS = sorted(folder for folder in MODELS.iterdir() if (folder / "meta.json").is_file())
PLANNERS = [
    folder
    for folder in FOLDERS
    if json.loads((folder / "meta.json").read_text())["family"] == "ddpd_planner"
]

Arguments = dict[str, Tensor]
Runner = Callable[[Denoiser, dict[str, Any], list[Arguments]], list[Tensor]]


class Keys(Protocol):
    """Keys and values of earlier passes, layer by layer."""

    def update(self, key: Tensor, value: Tensor, layer: int, /) -> tuple[Tensor, Tensor]: ...


class OverwritingCache:
    """Keys and values of a row of which some columns are replaced, as in a dual cache."""

    def __init__(self, full: DynamicCache, columns: Tensor) -> None:
        self.full, self.columns = full, columns

    def update(self, key: Tensor, value: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        old = self.full.layers[layer]
        return old.keys.index_copy(2, self.columns, key), old.values.index_copy(
            2, self.columns, value
        )


@contextmanager
def keeping(cache: Keys, bias: Tensor | None = None) -> Iterator[None]:
    """Within, the attention of each layer in turn also sees the keys and values of a cache.

    The networks themselves always run whole canvases; the fixtures of cached loops show that their
    layers are the authors'.
    """
    attend, layers = F.scaled_dot_product_attention, itertools.count()

    def also(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        key, value = cache.update(key, value, next(layers))
        return attend(query, key, value, **{**options, "attn_mask": bias})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", also)
        yield


def columns(start: int, stop: int) -> Tensor:
    return torch.arange(start, stop)[None]


def stack(denoiser: Denoiser, ids: Tensor, positions: Tensor, bias: Tensor | None = None) -> Tensor:
    """Unshifted logits of the network itself."""
    model: Any = denoiser.module
    return model.lm_head(run_layers(model.model, model.model.embed_tokens(ids), positions, bias))


def cached(
    denoiser: Denoiser,
    ids: Tensor,
    positions: Tensor,
    cache: Keys,
    bias: Tensor | None = None,
) -> Tensor:
    """Unshifted logits of some columns after those of a cache, which they join."""
    with keeping(cache, bias):
        return stack(denoiser, ids, positions)


def plain(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """What users call."""
    (given,) = steps
    return [denoiser.logits(given["input_ids"], given.get("attention_mask"))]


def embeds(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    model: Any = denoiser.module
    given = steps[0]["inputs_embeds"]
    return [model.lm_head(run_layers(model.model, given, columns(0, given.shape[1])))]


def bool_bias(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    ids, seen = steps[0]["input_ids"], steps[0]["attention_bias"]
    bias = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return [stack(denoiser, ids, columns(0, ids.shape[1]), bias)]


def outer_mask(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """The 4-D mask is the outer product of a padding mask, which is its diagonal."""
    seen = steps[0]["attention_mask"].diagonal(dim1=-2, dim2=-1)[:, 0]
    return [denoiser.logits(steps[0]["input_ids"], seen)]


def growing_cache(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    cache, start, out = DynamicCache(), 0, []
    for step, given in zip(case["steps"], steps, strict=True):
        out.append(cached(denoiser, given["input_ids"], columns(start, step["clen"]), cache))
        start = step["clen"]
    return out


def prefix_cache(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    cache, length, kept = (
        DynamicCache(),
        steps[0]["input_ids"].shape[1],
        case["steps"][1]["prefix_len"],
    )
    first = cached(denoiser, steps[0]["input_ids"], columns(0, length), cache)
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, :kept], layer.values[:, :, :kept]
    return [first, cached(denoiser, steps[1]["input_ids"], columns(kept, length), cache)]


def dual_cache(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    cache, length = DynamicCache(), steps[0]["input_ids"].shape[1]
    first = cached(denoiser, steps[0]["input_ids"], columns(0, length), cache)
    replaced = steps[1]["replace_position"][0].nonzero()[:, 0]
    after = OverwritingCache(cache, replaced)
    return [first, cached(denoiser, steps[1]["input_ids"], replaced[None], after)]


def dit(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """The network at a given total noise; where that is zero, also the denoiser itself."""
    network: Any = denoiser.module
    ids, sigma = steps[0]["indices"], steps[0]["sigma"]
    logits = network.output_layer.linear(network(ids, sigma, columns(0, ids.shape[1])))
    if not sigma.any():
        assert torch.equal(denoiser.logits(ids), logits)
    return [logits]


def log_score(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """Log-scores at a given total noise; the log-linear time of it gives the same."""
    network: Any = denoiser
    ids, sigma = steps[0]["indices"], steps[0]["sigma"]
    in_time = denoiser.logits(ids, t=-torch.expm1(-sigma.double()) / (1 - 1e-3))
    network.noise = lambda t: sigma
    values = denoiser.logits(ids, t=torch.ones(len(ids)).double())
    reachable = sigma < 6.9  # the schedule ends at -log(1e-3)
    torch.testing.assert_close(in_time[reachable], values[reachable], atol=1e-4, rtol=1e-4)
    return [values]


def duo(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """Tokens, or mixtures of them: logits over the vocabulary, or some tokens and their weights."""
    model: Any = denoiser
    x, sigma = steps[0]["x"], steps[0]["sigma"]
    if x.ndim == 2:
        t = -torch.expm1(-sigma.double()) / (1 - 1e-3)
        return [denoiser.logits(x, t=t)]
    if x.is_floating_point():
        return [model.soft_logits(x.softmax(dim=-1), sigma)]
    mixture = torch.zeros(*x.shape[:2], denoiser.vocab_size)
    return [model.soft_logits(mixture.scatter_add(-1, x, steps[0]["weights"]), sigma)]


def no_blocks(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """One block as long as the canvas is full attention."""
    ids, mask = steps[0]["input_ids"], steps[0].get("attention_mask")
    denoiser.block_length = ids.shape[1]
    return [denoiser.logits(ids, mask)]


def blocks(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """The mask is the block-causal one: bool, or additive with minus infinity."""
    given, ids = steps[0]["attention_mask"], steps[0]["input_ids"]
    seen = given if given.dtype == torch.bool else given == 0
    denoiser.block_length = length = int(seen.reshape(-1, ids.shape[1])[0].sum())
    own = block_causal_bias(queried(Pass(ids)), length, torch.float32) == 0
    assert torch.equal(seen.reshape(own.shape), own)
    return [denoiser.logits(ids)]


def stored_blocks(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """Blocks after a cache, which a block joins only if it is stored."""
    cache, out = DynamicCache(), []
    for step, given in zip(case["steps"], steps, strict=True):
        seen = copy.deepcopy(cache)
        bias = as_bias(given["attention_mask"][:, 0], torch.float32)
        out.append(cached(denoiser, given["input_ids"], given["position_ids"], seen, bias))
        cache = seen if step["static"]["store_kv"] else cache
    return out


def moe_cache(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    cache, out = DynamicCache(), []
    network: Any = denoiser.module
    for given in steps:
        with keeping(cache, given["attention_mask"]):
            hidden = network.model(given["input_ids"], given["position_ids"])
        out.append(network.lm_head(hidden))
    return out


def gemma(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """The canvas behind the prompt; the logits of the step before are carried."""
    (given,) = steps
    ids = torch.cat((given["input_ids"], given["decoder_input_ids"]), dim=1)
    start, mask = given["input_ids"].shape[1], given.get("decoder_attention_mask")
    if mask is not None:
        assert torch.equal(given["attention_mask"], mask[:, :start])
    carry = None
    if "self_conditioning_logits" in given:
        carry = given["self_conditioning_logits"], given["self_conditioning_mask"]
    out = denoiser(ids, mask, carry=carry)
    assert out.columns is not None
    assert out.columns.tolist() == [list(range(start, ids.shape[1]))] * len(ids)
    return [out.values]


def gemma_cache(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """Two canvases after one prompt."""
    prompt = steps[0]["input_ids"]
    canvases = [torch.cat((prompt, given["decoder_input_ids"]), dim=1) for given in steps]
    return [denoiser.logits(ids)[:, prompt.shape[1] :] for ids in canvases]


def bd3lm(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """Sampling: the denoiser itself; training: the noised canvas beside the clean one."""
    model: Any = denoiser
    (given,) = steps
    t = -torch.expm1(-given["timesteps"].double()).flatten()
    if case["steps"][0]["static"]["sample_mode"]:
        return [denoiser.logits(given["input_ids"], t=t)]
    noised, clean = given["input_ids"].chunk(2, dim=1)
    return [model.training_logits(noised, clean, t)]


def bd3lm_cache(denoiser: Denoiser, case: dict[str, Any], steps: list[Arguments]) -> list[Tensor]:
    """Blocks one by one after those that were stored; a block that is not stored is forgotten."""
    model: Any = denoiser
    network: Any = denoiser.module
    cache, start, out = DynamicCache(), 0, []
    for step, given in zip(case["steps"], steps, strict=True):
        seen, ids = copy.deepcopy(cache), given["input_ids"]
        stop = start + ids.shape[1]
        t = -torch.expm1(-given["timesteps"].double()).flatten()
        with keeping(seen):
            hidden = network(ids, model.sigma(ids, t), columns(start, stop))
        out.append(network.output_layer.linear(hidden))
        if step["static"]["store_kv"]:
            cache, start = seen, stop
    return out


STOCK: dict[tuple[str, ...], Runner] = {
    ("input_ids",): plain,
    ("attention_mask", "input_ids"): plain,
    ("attention_mask", "input_ids", "position_ids"): outer_mask,
    ("inputs_embeds",): embeds,
    ("attention_bias", "input_ids"): bool_bias,
    ("dynamic_cache",): growing_cache,
    ("fast_prefix_fill", "fast_prefix"): prefix_cache,
    ("fast_prefix_fill", "fast_dual"): dual_cache,
}
RUNNERS: dict[str, dict[tuple[str, ...], Runner]] = {
    "llada": STOCK,
    "dream": STOCK,
    "mdlm": {("indices", "sigma"): dit},
    "sedd": {("indices", "sigma"): log_score},
    "bd3lm": {("input_ids", "timesteps"): bd3lm, ("bd3_cache",): bd3lm_cache},
    "sdar": {
        ("input_ids",): no_blocks,
        ("attention_mask", "input_ids"): no_blocks,
        ("attention_mask", "input_ids", "position_ids"): blocks,
        ("dynamic_cache",): stored_blocks,
    },
    "llada_moe": {
        ("input_ids",): plain,
        ("attention_mask", "input_ids"): plain,
        ("attention_mask", "input_ids", "position_ids"): plain,
    },
    "llada2": {
        ("input_ids",): no_blocks,
        ("attention_mask", "input_ids"): plain,
        ("attention_mask", "input_ids", "position_ids"): blocks,
        ("dynamic_cache",): moe_cache,
    },
    "diffusion_gemma": {
        ("decoder_input_ids", "input_ids"): gemma,
        (
            "decoder_input_ids",
            "input_ids",
            "self_conditioning_logits",
            "self_conditioning_mask",
        ): gemma,
        (
            "attention_mask",
            "decoder_attention_mask",
            "decoder_input_ids",
            "input_ids",
        ): gemma,
        ("dg_cache",): gemma_cache,
    },
    "duo": {("sigma", "x"): duo, ("sigma", "weights", "x"): duo},
}


def runner_of(family: str, case: dict[str, Any]) -> Runner:
    """How a case is run, from its modes or its arguments."""
    modes = tuple(
        dict.fromkeys(
            step["mode"] for step in case["steps"] if step.get("mode") not in (None, "tensor")
        )
    )
    return RUNNERS[family][modes or tuple(sorted(case["steps"][0]["args"]))]


def needs_newer_transformers(family: str) -> bool:
    return family == "diffusion_gemma" and not hasattr(
        transformers, "DiffusionGemmaForBlockDiffusion"
    )


def cases() -> list[Any]:
    """One parameter per case of the families that are built, one per folder of the others."""
    load_families()
    listed: list[Any] = []
    for folder in FOLDERS:
        if folder in PLANNERS:  # no denoisers; they have a test of their own
            continue
        family = family_of(json.loads((folder / "config.json").read_text()))
        if family is None or needs_newer_transformers(family.name):
            why = "family not built yet" if family is None else "transformers is too old for"
            missing = pytest.mark.xfail(
                reason=f"{why}: {folder.name}", raises=CheckpointError, strict=True
            )
            listed.append(pytest.param(folder, "", id=folder.name, marks=missing))
            continue
        quirk = pytest.mark.xfail(
            reason="quirk of the original, not reproduced", raises=AssertionError, strict=True
        )
        for name, case in json.loads((folder / "meta.json").read_text())["cases"].items():
            listed.append(
                pytest.param(
                    folder, name, id=f"{folder.name}-{name}", marks=[quirk] if case["quirk"] else []
                )
            )
    return listed


def compare(got: Tensor, expected: Tensor, valid: Tensor | None, label: str) -> None:
    """Numbers below -1e5 stand for impossible, whatever their rounding at that size."""
    difference = (got.clamp_min(-1e5) - expected.clamp_min(-1e5)).abs().amax(dim=-1)
    largest = float(difference.max() if valid is None else difference[valid.bool()].max())
    print(f"{label}: largest absolute difference {largest:.1e}")
    assert largest < TOLERANCE, label


@torch.no_grad()
@pytest.mark.parametrize(("folder", "name"), cases())
def test_logits_equal_the_authors(folder: Path, name: str) -> None:
    given = OPTIONS.get(folder.name, {})
    denoiser = AutoDenoiser.from_pretrained(folder, dtype="float32", **given)
    meta = json.loads((folder / "meta.json").read_text())
    case, inputs, outputs = (
        meta["cases"][name],
        load_file(folder / "inputs.safetensors"),
        load_file(folder / "outputs.safetensors"),
    )
    steps = [
        {arg: inputs[f"{name}.{i}.{arg}"] for arg in step["args"]}
        for i, step in enumerate(case["steps"])
    ]
    run = runner_of(denoiser.family, case)
    valid = outputs[f"{name}.0.valid"] if case["compare"] == "valid" else None
    for i, logits in enumerate(run(denoiser, case, steps)):
        expected = outputs[f"{name}.{i}.logits"]
        if denoiser.family == "dream" and run is not growing_cache:
            expected, mask = shifted_by_the_sampler(expected, valid)
            valid = mask if valid is not None else None
        compare(logits, expected, valid, f"{folder.name}.{name}.{i}.logits")
        if f"{name}.{i}.log_p_x0" in outputs:
            law = substitution(logits, steps[i]["indices"], case["steps"][i]["subs"])
            compare(
                law, outputs[f"{name}.{i}.log_p_x0"], valid, f"{folder.name}.{name}.{i}.log_p_x0"
            )


@torch.no_grad()
@pytest.mark.parametrize("folder", PLANNERS, ids=lambda folder: folder.name)
def test_planner_equals_the_authors(folder: Path) -> None:
    planner = DDPDPlanner.from_pretrained(folder, dtype="float32")
    inputs = load_file(folder / "inputs.safetensors")
    outputs = load_file(folder / "outputs.safetensors")
    for name in json.loads((folder / "meta.json").read_text())["cases"]:
        ids, sigma = inputs[f"{name}.0.indices"], inputs[f"{name}.0.sigma"]
        logits = planner.at_noise(ids, sigma)
        label = f"{folder.name}.{name}.0.logits"
        compare(logits[..., None], outputs[f"{name}.0.logits"], None, label)
        if not sigma.any():
            assert torch.equal(planner(ids), logits)
    with pytest.raises(CheckpointError, match=r"DDPDPlanner\.from_pretrained"):
        AutoDenoiser.from_pretrained(folder)


def shifted_by_the_sampler(logits: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The authors' samplers shift the whole canvas; a padded row's first token takes a pad's."""
    defined = torch.ones(logits.shape[:2]) if valid is None else valid
    keep = (
        defined.bool() & torch.cat((torch.ones_like(defined[:, :1]), defined[:, :-1]), dim=1).bool()
    )
    return torch.cat((logits[:, :1], logits[:, :-1]), dim=1), keep


def substitution(logits: Tensor, ids: Tensor, mask_token_id: int) -> Tensor:
    """log p(x0) of the substitution parameterisation; -1e6 stands for impossible."""
    logits = logits.clone()
    logits[..., mask_token_id] = -1e6
    law = logits.log_softmax(dim=-1)
    known = torch.full_like(law, -1e6).scatter(-1, ids[..., None], 0.0)
    return torch.where((ids == mask_token_id)[..., None], law, known)


def test_every_case_has_a_runner() -> None:
    load_families()
    assert FOLDERS, f"{MODELS} holds no checkpoint"
    for folder in FOLDERS:
        if folder in PLANNERS:
            continue
        family = family_of(json.loads((folder / "config.json").read_text()))
        for case in json.loads((folder / "meta.json").read_text())["cases"].values():
            assert family is None or callable(runner_of(family.name, case))
