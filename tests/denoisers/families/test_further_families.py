"""SEDD, Duo, BD3-LM, SDAR, the mixtures of experts and the DDPD planner: what each promises."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from dlm_sampling.checkup.doctor import diagnose
from dlm_sampling.denoisers import (
    AutoDenoiser,
    CheckpointError,
    DDPDPlanner,
    Denoiser,
    SEDDDenoiser,
    wrap,
)
from dlm_sampling.denoisers.families.llada2 import GroupedRouter, RouterConfig
from dlm_sampling.denoisers.networks.block_causal import noised_clean_bias
from dlm_sampling.denoisers.networks.dit import Dit, DitConfig
from dlm_sampling.denoisers.networks.moe import GatedMlp, MoeConfig
from dlm_sampling.denoisers.networks.total_noise import geometric_noise, total_noise
from tests.denoisers.random_dit import random_dit

FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"
FOLDERS = (
    "sedd_absorb",
    "sedd_uniform",
    "duo",
    "bd3lm",
    "bd3lm_noadaln",
    "sdar",
    "llada_moe",
    "llada2_moe",
)
BLOCKS = ("bd3lm", "bd3lm_noadaln", "sdar", "llada2_moe")
MASK = 126
SETTINGS: dict[str, dict[str, Any]] = {"llada2_moe": {"mask_token_id": MASK, "block_length": 4}}
STATISTICS = ("rotary_emb.inv_freq", "sampling_eps_min", "sampling_eps_max")


def load(folder: str) -> Denoiser:
    return AutoDenoiser.from_pretrained(FIXTURES / folder, **SETTINGS.get(folder, {}))


def some_ids(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 120, (rows, length), generator=torch.Generator().manual_seed(seed))


def times(rows: int) -> Tensor:
    return torch.full((rows,), 0.6, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_padded_row_equals_the_row_alone(folder: str, side: str) -> None:
    """Also where blocks count from the first real token: 3 and 5 are no multiples of 4."""
    denoiser = load(folder)
    assert denoiser.honours_padding
    lengths, width = (12, 7, 9), 12
    ids, mask = torch.full((3, width), 125), torch.zeros(3, width, dtype=torch.long)
    rows = [some_ids(1, length, seed=length) for length in lengths]
    places = [slice(width - n, width) if side == "left" else slice(0, n) for n in lengths]
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        ids[i, place], mask[i, place] = row[0], 1
    together = denoiser.logits(ids, mask, times(3))
    assert together.isfinite().all()
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        alone = denoiser.logits(row, t=times(1))[0]
        torch.testing.assert_close(together[i, place], alone, atol=1e-4, rtol=1e-4)
    unmasked = denoiser.logits(ids, t=times(3))
    assert (unmasked - together)[1, places[1]].abs().max() > 1e-2 or folder in BLOCKS


@torch.no_grad()
@pytest.mark.parametrize("folder", BLOCKS)
def test_a_block_sees_itself_and_earlier_blocks_only(folder: str) -> None:
    denoiser, ids = load(folder), some_ids(1, 12)
    assert denoiser.block_length == 4
    before = denoiser.logits(ids)
    for column in range(12):
        changed = ids.clone()
        changed[0, column] = (changed[0, column] + 1) % 120
        moved = (denoiser.logits(changed) - before).abs().amax(dim=-1)[0]
        first = column // 4 * 4
        assert (moved[first:] > 1e-5).all()
        assert (moved[:first] < 1e-5).all()


@torch.no_grad()
@pytest.mark.parametrize("folder", ["bd3lm", "bd3lm_noadaln"])
def test_training_sees_what_sampling_sees(folder: str) -> None:
    """Noised block b beside the clean canvas = block b noised after clean earlier blocks."""
    model: Any = load(folder)
    clean = some_ids(2, 12)
    noised = clean.masked_fill(some_ids(2, 12, seed=2) < 60, 127)
    joint = model.training_logits(noised, clean)
    for start in (0, 4, 8):
        canvas = torch.cat((clean[:, :start], noised[:, start:]), dim=1)
        block = slice(start, start + 4)
        torch.testing.assert_close(
            joint[:, block], model.logits(canvas)[:, block], atol=1e-4, rtol=1e-4
        )


def test_the_training_mask_by_hand() -> None:
    seen = noised_clean_bias(2, 1, torch.zeros(()))[0, 0] == 0
    assert seen.long().tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


@torch.no_grad()
@pytest.mark.parametrize("folder", FOLDERS)
def test_save_and_load_keep_names_values_and_facts(folder: str, tmp_path: Path) -> None:
    saved = load(folder)
    saved.save_pretrained(tmp_path)
    ids, t = some_ids(2, 9), times(2)
    loaded = AutoDenoiser.from_pretrained(tmp_path)
    assert type(loaded) is type(saved)
    assert torch.equal(loaded.logits(ids, t=t), saved.logits(ids, t=t))
    facts = ("mask_token_id", "eos_token_id", "max_length", "vocab_size", "kind", "block_length")
    assert [getattr(loaded, fact) for fact in facts] == [getattr(saved, fact) for fact in facts]
    before, after = (
        load_file(place / "model.safetensors") for place in (FIXTURES / folder, tmp_path)
    )
    assert {name for name in before if not name.endswith(STATISTICS)} == set(after)
    assert all(torch.equal(before[name], after[name]) for name in after)


@torch.no_grad()
@pytest.mark.parametrize("folder", FOLDERS)
def test_sixteen_bit_weights(folder: str) -> None:
    wide, settings = load(folder), SETTINGS.get(folder, {})
    narrow = AutoDenoiser.from_pretrained(FIXTURES / folder, dtype="bfloat16", **settings)
    ids, t = some_ids(2, 12), times(2)
    expected, got = wide.logits(ids, t=t), narrow.logits(ids, t=t)
    assert (narrow.dtype, got.dtype) == (torch.bfloat16, torch.bfloat16)
    assert (got.float() - expected).abs().mean() < 0.1 * expected.std()


@pytest.mark.parametrize("folder", FOLDERS)
def test_gradients_reach_every_weight(folder: str) -> None:
    denoiser = load(folder)
    denoiser.logits(some_ids(4, 12), t=times(4)).logsumexp(dim=-1).sum().backward()
    assert denoiser.module is not None
    for name, parameter in denoiser.module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("folder", "kind", "mask"),
    [
        ("sedd_absorb", "log_score", 127),
        ("sedd_uniform", "log_score", None),
        ("duo", "leave_one_out", None),
        ("bd3lm", "posterior", 127),
        ("sdar", "posterior", MASK),
        ("llada_moe", "posterior", MASK),
    ],
)
def test_what_the_logits_are_a_law_of(folder: str, kind: str, mask: int | None) -> None:
    denoiser = load(folder)
    assert (denoiser.kind, denoiser.mask_token_id) == (kind, mask)


@torch.no_grad()
def test_scores_have_their_scale_and_no_own_entry() -> None:
    """Absorbing: mean ratio of the raw output times 1 / ((exp(sigma) - 1) (V - 1))."""
    network = random_dit(vocab_size=9, hidden_size=16, n_blocks=1, n_heads=2, cond_dim=8)
    ids, sigma = torch.tensor([[8, 3, 8]]), torch.tensor([0.7])
    t = torch.ones(1).double()
    raw = SEDDDenoiser(network, mask_token_id=8, noise=lambda t: sigma).logits(ids, t=t)
    scaled = SEDDDenoiser(
        network, mask_token_id=8, noise=lambda t: sigma, scale_by_sigma=True
    ).logits(ids, t=t)
    own = torch.zeros_like(raw).scatter(-1, ids[..., None], 1.0).bool()
    assert (raw[own] == 0).all()
    assert (scaled[own] == 0).all()
    expected = torch.full_like(raw[~own], float(((sigma.exp() - 1) * 8).log()))
    torch.testing.assert_close((raw - scaled)[~own], expected)
    with pytest.raises(ValueError, match="scale_by_sigma=True"):
        SEDDDenoiser(network, scale_by_sigma=True)
    assert (
        SEDDDenoiser(network, mask_token_id=8, scale_by_sigma=True)
        .logits(ids, t=torch.zeros(1))
        .isfinite()
        .all()
    )


@torch.no_grad()
def test_sedd_follows_the_schedule_of_its_config(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "sedd_uniform", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["noise"] = {"type": "geometric", "sigma_min": 1e-3, "sigma_max": 4.0}
    file.write_text(json.dumps(config))
    denoiser, by_hand = AutoDenoiser.from_pretrained(tmp_path), load("sedd_uniform")
    assert isinstance(by_hand, SEDDDenoiser)
    by_hand.noise = lambda t: geometric_noise(t, 1e-3, 4.0)
    ids, t = some_ids(2, 6), torch.tensor([0.2, 1.0], dtype=torch.float64)
    expected = denoiser.logits(ids, t=t)
    assert torch.equal(by_hand.logits(ids, t=t), expected)
    torch.testing.assert_close(geometric_noise(t, 1e-3, 4.0)[1], torch.tensor(4.0))
    assert (load("sedd_uniform").logits(ids, t=t) - expected).abs().max() > 1e-2
    denoiser.save_pretrained(tmp_path / "again")
    again = AutoDenoiser.from_pretrained(tmp_path / "again")
    assert torch.equal(again.logits(ids, t=t), expected)
    config["noise"] = {"type": "staircase"}
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="noise type 'staircase'; allowed: loglinear"):
        AutoDenoiser.from_pretrained(tmp_path)


@torch.no_grad()
def test_duo_mixtures_of_one_token_are_tokens() -> None:
    duo: Any = load("duo")
    ids, t = some_ids(2, 6), torch.tensor([0.2, 0.9], dtype=torch.float64)
    one_hot = torch.nn.functional.one_hot(ids, duo.vocab_size).float()
    soft = duo.soft_logits(one_hot, total_noise(t))
    torch.testing.assert_close(soft, duo.logits(ids, t=t), atol=1e-5, rtol=1e-5)


def moe_sizes(experts: int) -> MoeConfig:
    return MoeConfig(
        vocab_size=8,
        hidden_size=6,
        n_heads=1,
        n_kv_heads=1,
        head_dim=6,
        dense_layers=(False,),
        dense_width=4,
        expert_width=4,
        n_experts=experts,
        shared_width=0,
        rotary_width=6,
        rope_theta=1e4,
        eps=1e-6,
    )


@torch.no_grad()
def test_grouped_router_token_by_token() -> None:
    """The batched choice equals the rule written out for one token."""
    choice = RouterConfig(num_experts_per_tok=3, n_group=4, topk_group=2, routed_scaling_factor=2.5)
    router = GroupedRouter(moe_sizes(12), choice)
    generator = torch.Generator().manual_seed(0)
    router.weight.normal_(generator=generator)
    router.expert_bias.normal_(generator=generator)
    x = torch.randn(50, 6, generator=generator)
    weights, chosen = router(x)
    biased_choices = 0
    for token in range(50):
        scores = (router.weight @ x[token]).sigmoid()
        ranked = (scores + router.expert_bias).tolist()
        strength = [sum(sorted(ranked[3 * g : 3 * g + 3])[-2:]) for g in range(4)]
        groups = sorted(range(4), key=lambda g: -strength[g])[:2]
        allowed = [e for e in range(12) if e // 3 in groups]
        best = sorted(allowed, key=lambda e: -ranked[e])[:3]
        assert chosen[token].tolist() == best
        expected = 2.5 * scores[best] / scores[best].sum()
        torch.testing.assert_close(weights[token], expected)
        biased_choices += set(best) != set(scores.topk(3).indices.tolist())
    assert biased_choices > 10, "groups and bias must matter in this test"


@torch.no_grad()
def test_experts_are_a_weighted_sum() -> None:
    model: Any = load("llada_moe")
    layer = model.network.model.layers[0].mlp
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    out, flat = layer(x).flatten(0, 1), x.flatten(0, 1)
    weights, chosen = layer.gate(flat)
    assert (weights.sum(dim=-1) < 1).all(), "not renormalised"
    for token in range(10):
        mixed = sum(
            weights[token, k] * layer.experts[int(chosen[token, k])](flat[token])
            for k in range(chosen.shape[1])
        )
        torch.testing.assert_close(out[token], mixed, atol=1e-5, rtol=1e-4)
    assert isinstance(layer.experts[0], GatedMlp)


@torch.no_grad()
def test_planner_padding_saving_and_refusals(tmp_path: Path) -> None:
    planner = DDPDPlanner.from_pretrained(FIXTURES / "ddpd_planner")
    row = some_ids(1, 7)
    padded = torch.cat((torch.full((1, 5), 125), row), dim=1)
    mask = torch.tensor([[0] * 5 + [1] * 7])
    alone = planner(row)
    assert alone.shape == (1, 7)
    torch.testing.assert_close(planner(padded, None, mask)[:, 5:], alone, atol=1e-5, rtol=1e-4)
    assert torch.equal(planner(row, torch.tensor([0.3])), alone)
    planner.save_pretrained(tmp_path)
    assert torch.equal(DDPDPlanner.from_pretrained(tmp_path)(row), alone)
    with pytest.raises(ValueError, match="input_ids has shape"):
        planner(row[0])
    with pytest.raises(ValueError, match="attention_mask has shape"):
        planner(row, None, mask)
    with pytest.raises(CheckpointError, match="its head has 128 columns"):
        DDPDPlanner.from_pretrained(FIXTURES / "sedd_uniform")
    with pytest.raises(ValueError, match="output columns: a planner has 1"):
        DDPDPlanner(Dit(DitConfig(vocab_size=9, hidden_size=16, n_blocks=1, n_heads=2, cond_dim=8)))


@pytest.mark.parametrize(
    ("folder", "change", "message"),
    [
        ("llada_moe", {"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ("llada_moe", {"moe_router_score_function": "sigmoid"}, "moe_router_score_function"),
        ("llada_moe", {"partial_rotary_factor": None}, "lacks partial_rotary_factor"),
        ("llada2_moe", {"use_sliding_window": True}, "use_sliding_window"),
        ("llada2_moe", {"num_experts": None}, "lacks num_experts"),
        ("sdar", {"use_sliding_window": True}, "use_sliding_window"),
        ("sedd_uniform", {"model": {"scale_by_sigma": True}}, "scale_by_sigma"),
        ("duo", {"model": {}}, "lacks a size"),
        ("bd3lm", {"n_blocks": 1}, "unexpected tensors"),
    ],
)
def test_configs_of_other_architectures_are_refused(
    folder: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    shutil.copytree(FIXTURES / folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    if folder == "sedd_uniform":
        change = {"model": {**config["model"], **change["model"]}}
    config |= change
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        AutoDenoiser.from_pretrained(tmp_path, **SETTINGS.get(folder, {}))


@torch.no_grad()
def test_diffusion_gemma_carry_saving_and_refusals(tmp_path: Path) -> None:
    if not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
        with pytest.raises(CheckpointError, match="pip install 'transformers"):
            load("diffusion_gemma")
        return
    denoiser, ids = load("diffusion_gemma"), some_ids(2, 13)
    assert (denoiser.canvas_length, denoiser.mask_token_id) == (8, None)
    first = denoiser(ids)
    assert first.head is None
    logits, given = first.carry
    assert torch.equal(first.values, logits)
    assert first.columns is not None
    assert first.columns.tolist() == [[5, 6, 7, 8, 9, 10, 11, 12]] * 2
    everywhere = denoiser.logits(ids)
    assert torch.equal(everywhere[:, 5:], logits)
    assert not everywhere[:, :5].any()
    assert given.all()
    second = denoiser(ids, carry=first.carry)
    assert (second.values - first.values).abs().max() > 1e-2
    fresh = denoiser.initial_carry(ids)
    assert torch.equal(denoiser(ids, carry=fresh).values, first.values)
    zeros = denoiser(ids, carry=(fresh[0], given))  # logits of 0 are not the absence of logits
    assert (zeros.values - first.values).abs().max() > 1e-2
    mixed = denoiser(ids, carry=(logits, torch.tensor([False, True]))).values
    torch.testing.assert_close(mixed[0], first.values[0])
    torch.testing.assert_close(mixed[1], second.values[1])
    checks = {check.name: check for check in diagnose(denoiser).checks}
    assert checks["attention"].status == "pass"  # within the canvas
    with pytest.raises(ValueError, match="at least one prompt token and a canvas of 8"):
        denoiser(ids[:, :8])
    with pytest.raises(ValueError, match="must be None here"):
        denoiser.save_pretrained(tmp_path, dtype="bfloat16")
    denoiser.save_pretrained(tmp_path)
    again = AutoDenoiser.from_pretrained(tmp_path)
    assert torch.equal(again(ids).values, first.values)


@pytest.mark.parametrize("folder", BLOCKS)
def test_the_doctor_knows_blocks(folder: str) -> None:
    denoiser = load(folder)
    checks = {check.name: check for check in diagnose(denoiser).checks}
    assert checks["attention"].status == "pass"
    assert "last token of a block of 4" in checks["attention"].detail
    assert checks["padding"].status == "pass"
    causal = wrap(lambda input_ids: denoiser.logits(input_ids), vocab_size=128, mask_token_id=MASK)
    causal.block_length, denoiser.block_length = 4, 1
    checks = {check.name: check for check in diagnose(causal).checks}
    assert checks["attention"].status == "fail"


def test_block_lengths_must_be_positive() -> None:
    with pytest.raises(ValueError, match="block_length=0: must be at least 1"):
        AutoDenoiser.from_pretrained(FIXTURES / "sdar", block_length=0)
    assert AutoDenoiser.from_pretrained(FIXTURES / "sdar", block_length=8).block_length == 8
