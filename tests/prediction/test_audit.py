"""The meter of caches: zeros where the cache is exact, and closed forms where it is not."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import AutoDenoiser, Rollout, ops, replay, sample, samplers, wrap
from dlm_sampling.caches import (
    BlockCache,
    DkvCache,
    DLLMCache,
    DPadCache,
    DualCache,
    PrefixCache,
    VicinityCache,
)
from dlm_sampling.caches.report import percentile
from dlm_sampling.engine.output import SampleOutput
from dlm_sampling.errors import SamplingWarning
from dlm_sampling.prediction.audit import Meter
from dlm_sampling.prediction.model import Counts, RunModel
from dlm_sampling.types import DenoiserOutput, TokenLaw

MODELS = Path(__file__).parents[1] / "fixtures" / "models"


def run(folder: str, cache: Any, audit: Any, **given: Any) -> SampleOutput:
    denoiser = AutoDenoiser.from_pretrained(MODELS / folder).to(dtype=torch.float64)
    ids = torch.randint(0, 100, (2, 16), generator=torch.Generator().manual_seed(0))
    editable = torch.arange(16).expand(2, -1) >= 4
    settings: dict[str, Any] = {"steps": 9, "block_length": 4, "law": TokenLaw()}
    return sample(
        denoiser, samplers.create("llada"), ids, editable, seeds=[3, 4], align_blocks=True,
        cache=cache, cache_audit=audit, **{**settings, **given},
    )  # fmt: skip


def test_an_exact_cache_has_zeros() -> None:
    out = run("sdar", BlockCache(), 1.0)
    assert out.cache is not None
    assert out.cache.audits == 6  # passes that open no block
    assert out.cache.kl_max < 1e-12
    assert (out.cache.top1_flip, out.cache.draw_flip) == (0.0, 0.0)


@pytest.mark.parametrize(
    "policy",
    [DualCache(), PrefixCache(), VicinityCache(2, 2, warm_up=1), DkvCache(every=3)],
)
def test_audits_see_stale_keys_and_change_nothing(policy: Any) -> None:
    quiet, heard = run("llada", policy, None), run("llada", policy, 1.0)
    assert torch.equal(quiet.tokens, heard.tokens)
    assert torch.equal(quiet.logprob, heard.logprob)
    assert torch.equal(quiet.nfe, heard.nfe)
    assert torch.equal(quiet.work, heard.work)
    assert quiet.cache is not None and heard.cache is not None
    assert quiet.cache.audits == 0 and "not audited" in str(quiet.cache)
    assert heard.cache.audits >= 6
    assert heard.cache.kl_mean > 1e-7 > heard.cache.floor
    assert heard.cache.nbytes > 0
    assert repr(policy) in str(heard.cache)
    assert ", most probable tokens differ " in str(heard.cache)


def test_the_pass_before_a_refresh_is_audited_too() -> None:
    out = run("llada", DualCache(), "refresh")
    assert out.cache is not None
    assert out.cache.audits == 2  # the second and the third block
    assert out.cache.kl_mean > 1e-7


def six_tokens() -> RunModel:
    denoiser = wrap(lambda ids: torch.zeros(*ids.shape, 6), vocab_size=6, mask_token_id=5)
    return RunModel(denoiser, TokenLaw(), Counts.zero(1, torch.device("cpu")))


def outputs(logits: Tensor) -> list[DenoiserOutput]:
    return [DenoiserOutput(logits)]


def test_a_planted_shift_has_the_divergence_of_its_closed_form() -> None:
    """c(v) = p(v) e^{d_v} / Z with d = delta on one token: KL = ln(1 - p + p e^delta) - p delta."""
    model = six_tokens()
    width, delta = model.denoiser.vocab_size, 0.7
    made = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, width, dtype=torch.float64, generator=made)
    moved = logits.clone()
    moved[..., 1] += delta
    where = torch.ones(1, 2, dtype=torch.bool)
    meter = Meter(DualCache())
    x = torch.zeros(1, 2, dtype=torch.int64)
    meter.compare(
        model, ops.Rng.from_seeds([0]), x, where, outputs(logits), outputs(moved), replaced=False
    )
    p = logits.softmax(-1)[0, :, 1]
    wanted = torch.log(1 - p + p * math.exp(delta)) - p * delta
    torch.testing.assert_close(meter.report().kl, wanted)


def test_drawn_tokens_differ_as_often_as_the_theory_of_races_says() -> None:
    """TV <= share of different draws <= 2 TV / (1 + TV), over many noises."""
    model = six_tokens()
    made, count = torch.Generator().manual_seed(1), 40_000
    one, other = (torch.randn(model.denoiser.vocab_size, generator=made) for _ in range(2))
    x = torch.zeros(count, 1, dtype=torch.int64)
    where = torch.ones(count, 1, dtype=torch.bool)
    meter = Meter(DualCache())
    tables = [outputs(t.expand(count, 1, -1).contiguous()) for t in (one, other)]
    meter.compare(
        model, ops.Rng.from_seeds(range(count)), x, where, tables[0], tables[1], replaced=False
    )
    report = meter.report()
    tv = float(report.tv.mean())
    slack = 4 * math.sqrt(0.25 / count)
    assert tv > 0.1
    assert tv - slack < report.draw_flip < 2 * tv / (1 + tv) + slack


def test_a_run_with_an_approximate_cache_says_so_and_replay_warns() -> None:
    denoiser = AutoDenoiser.from_pretrained(MODELS / "llada").to(dtype=torch.float64)
    for cache, warned in (("dual", True), ("none", False)):
        out = run("llada", cache, None, return_trajectory=True)
        rollout = Rollout.from_output(out)
        assert rollout.header.cache == rollout.select(torch.tensor([1])).header.cache
        assert (rollout.header.cache == "DualCache()") is warned
        if warned:
            with pytest.warns(SamplingWarning, match=r"DualCache\(\), .*`Rollout\.total`"):
                replay(denoiser, rollout, law=TokenLaw())
            with pytest.warns(SamplingWarning, match="approximate"):
                replay(denoiser, out, law=TokenLaw())
        else:
            replay(denoiser, rollout, law=TokenLaw())


def test_the_share_is_checked() -> None:
    words = r"must be the share of passes that are audited, in \(0, 1\], such as 0\.25, 'refresh'"
    values: tuple[Any, ...] = ("refersh", 0.0, 2, math.nan, True, torch.ones(2))
    for bad, error in zip(values, [ValueError] * 4 + [TypeError] * 2, strict=True):
        with pytest.raises(error, match=f"^cache_audit={re.escape(repr(bad))}: {words}") as refused:
            run("llada", "dual", bad)
        assert str(refused.value).endswith("'refresh'?") == (bad == "refersh")


def test_a_run_without_a_cache_has_nothing_to_audit() -> None:
    for cache in ("none", "auto"):  # a network that sees the whole canvas
        with pytest.raises(ValueError, match=r"no cache to compare with.*'none', 'prefix', 'dual'"):
            run("llada", cache, 0.5)


@pytest.mark.parametrize(
    ("folder", "policy"), [("llada", DLLMCache()), ("llada", DPadCache()), ("sdar", BlockCache())]
)
def test_a_policy_without_a_pass_that_a_refresh_replaces_is_not_audited_there(
    folder: str, policy: Any
) -> None:
    """Its report was empty, and asked for the audit that the caller had asked for."""
    with pytest.raises(ValueError, match=r"cache_audit='refresh'.*no pass.*such as 0\.25"):
        run(folder, policy, "refresh")


def test_the_other_figures_have_their_closed_forms() -> None:
    """Total variation, entropy and the largest token, of laws with zeros; only where asked."""
    p = torch.tensor([[0.5, 0.25, 0.25, 0, 0, 0], [0.125, 0.5, 0.375, 0, 0, 0]]).double()
    c = torch.tensor([[0.25, 0.75, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0, 0]]).double()
    meter = Meter(DualCache())
    x, where = torch.zeros(1, 3).long(), torch.tensor([[True, False, True]])
    given = [outputs(law.log()[[0, 0, 1]][None]) for law in (p, c)]
    meter.compare(six_tokens(), ops.Rng.from_seeds([0]), x, where, *given, replaced=False)
    meter.compare(six_tokens(), ops.Rng.from_seeds([0]), x, where & False, *given, replaced=False)
    report = meter.report()
    entropies = [-torch.xlogy(law, law).sum(1) for law in (p, c)]
    torch.testing.assert_close(report.entropy, (entropies[0] - entropies[1]).abs())
    torch.testing.assert_close(report.tv, (p - c).abs().sum(1) / 2)
    torch.testing.assert_close(report.kl, torch.full((2,), torch.inf).double())
    assert report.top1.tolist() == [True, False]
    assert (report.audits, report.floor) == (1, 0.0)
    backwards = Meter(DualCache())
    backwards.compare(six_tokens(), ops.Rng.from_seeds([0]), x, where, *given[::-1], replaced=False)
    q = (torch.xlogy(c, c) - torch.xlogy(c, p)).sum(1)
    torch.testing.assert_close(backwards.report().kl, q)


def test_the_percentile_is_one_of_the_values() -> None:
    values = torch.arange(200.0)[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert [percentile(values, p) for p in (1, 50, 99, 100)] == [1.0, 99.0, 197.0, 199.0]
    values[values > 190] = torch.inf  # laws of which one excludes what the other allows
    assert percentile(values, 99) == math.inf and percentile(values[:1], 99) == float(values[0])


def test_the_floor_is_the_largest_divergence_of_rounding() -> None:
    meter, x, where = Meter(DualCache()), torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
    for scale in (0.1, 0.3, 0.2):
        p = torch.tensor([0.5, 0.5, 0, 0, 0, 0]).double()
        c = torch.tensor([0.5 - scale, 0.5 + scale, 0, 0, 0, 0]).double()
        given = [outputs(law.log().view(1, 1, 6)) for law in (p, c)]
        meter.note_floor(six_tokens(), x, where, given)
        meter.note_floor(six_tokens(), x, ~where, given)
    assert meter.report().floor == pytest.approx(-0.5 * math.log(0.4 * 1.6), rel=1e-6)
    assert meter.report().kl.shape == (0,)
