"""Replay: recomputed log-probabilities are those of the run, and gradients flow through them."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlm_sampling import AutoDenoiser, Rollout, Trajectory, generate, ops, replay, samplers, wrap
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine import sample as loop
from dlm_sampling.engine.sample import SampleOutput, sample
from dlm_sampling.errors import SamplingWarning
from dlm_sampling.testing import FixtureToy
from dlm_sampling.types import DenoiserOutput, Drawn, Pass, TokenLaw
from tests.capture import recorder
from tests.samplers.small import MASK, SYMBOLS, run, small_toy

LENGTH, ROWS = 7, 6
ORDERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "random": (samplers.LLaDA(order="random"), {"steps": 3}),
    "confidence": (samplers.LLaDA(), {"steps": 4}),
    "blocks": (samplers.LLaDA(order="margin"), {"block_length": 2}),
    "hitting": (samplers.FirstHitting(), {}),
}


def recorded(toy: Denoiser, name: str, law: TokenLaw | None = None) -> SampleOutput:
    sampler, options = ORDERS[name]
    law = TokenLaw() if law is None else law
    return run(toy, sampler, length=LENGTH, rows=ROWS, prompt=[1], law=law, **options)


def rollout_of(out: SampleOutput) -> Rollout:
    return Rollout.from_output(out)


def drawn(trajectory: Trajectory) -> Tensor:
    """Log-probability of each token by the events, in the precision of the model."""
    found = torch.zeros(trajectory.initial.shape, dtype=trajectory.events[0].logprob.dtype)
    for event in trajectory.events:
        found[event.rows] = torch.where(event.written, event.logprob, found[event.rows])
    return found


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["32", "64"]
)
def test_equals_what_was_sampled(name: str, dtype: torch.dtype, error: float) -> None:
    toy = small_toy(length=LENGTH, vocab_size=9).variant(dtype=dtype)
    out = recorded(toy, name)
    assert out.trajectory is not None
    steps = torch.tensor(
        [sum(bool(e.written[i].any()) for e, i in out.trajectory.steps(b)) for b in range(ROWS)]
    )
    for given in (out, out.trajectory, rollout_of(out)):
        for size in (None, 4):
            found = replay(toy, given, batch_size=size, grad=False)
            assert found.logprob.dtype == dtype
            assert (found.logprob - drawn(out.trajectory)).abs().max() <= error
            assert (found.logprob - out.logprob).abs().max() <= 1e-5
            assert (found.total - drawn(out.trajectory).sum(1)).abs().max() <= 10 * error
            assert torch.equal(found.nfe, steps)
    assert (rollout_of(out).logprob - drawn(out.trajectory)).abs().max() == 0.0
    other = replay(small_toy(seed=1, length=LENGTH, vocab_size=9).variant(dtype=dtype), out)
    assert (other.logprob - out.logprob).abs().max() > 0.1  # another model, other numbers


def test_under_the_sampled_law() -> None:
    law = TokenLaw(temperature=0.7, top_p=0.8, suppressed=(2,))
    toy = small_toy(length=LENGTH, vocab_size=9)
    out = recorded(toy, "random", law)
    for grad in (False, True):
        for given in (law, "sampled"):
            found = replay(toy, rollout_of(out), law=given, grad=grad).logprob
            assert (found - out.logprob).abs().max() <= 1e-6
        own = replay(toy, out, law="model", grad=grad).logprob
        assert (own - out.logprob).abs().max() > 0.01
    cold = TokenLaw(temperature=0.0)
    out = recorded(toy, "random", cold)
    for grad in (False, True):
        assert replay(toy, out, law=cold, grad=grad).logprob.abs().max() == 0.0
    with pytest.raises(ValueError, match="law='old': must be 'sampled', 'model' or a TokenLaw"):
        replay(toy, out, law="old")  # pyright: ignore[reportArgumentType]


def test_padding_and_order_of_the_batch_change_nothing() -> None:
    toy = small_toy(length=LENGTH + 3, vocab_size=9).variant(honours_padding=False)
    out = recorded(toy, "confidence")
    rollout = rollout_of(out)
    before = replay(toy, rollout).logprob
    order = torch.tensor([3, 0, 5, 1])
    mixed = rollout.select(order)
    assert mixed.seeds == tuple(out.seeds[i] for i in (3, 0, 5, 1))
    assert len(set(mixed.seeds)) == 4
    assert torch.equal(replay(toy, mixed).logprob, before[order])

    wide = run(toy, samplers.LLaDA(), length=LENGTH + 3, rows=2, law=TokenLaw(), steps=4)
    both = Rollout.cat([rollout_of(wide), replace(rollout, request=rollout_of(wide).request)])
    longer = both.select(torch.arange(2, len(both)))  # three columns of padding on the left
    assert longer.attention_mask[:, :3].any() == 0
    assert (replay(toy, longer).logprob[:, 3:] - before).abs().max() <= 1e-12
    ignored = replace(
        longer, rows=longer.rows._replace(attention_mask=torch.ones_like(longer.attention_mask))
    )
    assert (replay(toy, ignored).logprob[:, 3:] - before).abs().max() > 0.01


def test_a_run_remembers_its_padding() -> None:
    toy = small_toy(length=LENGTH, vocab_size=9).variant(honours_padding=False)
    out = generate(
        toy, [[1], [2, 3, 1]], sampler=samplers.LLaDA(), temperature=1.0, max_new_tokens=4,
        seed=0, return_trajectory=True, batch_size=1,
    )  # fmt: skip
    for given in (out, Rollout.from_output(out)):
        assert (replay(toy, given).logprob - out.logprobs).abs().max() <= 1e-6


def by_hand(toy: FixtureToy, rollout: Rollout, shrink: int) -> tuple[Tensor, list[int]]:
    """Position by position, with Python's arithmetic over the steps."""
    found, passes = torch.zeros(rollout.tokens.shape, dtype=torch.float64), []
    for b, steps in enumerate(rollout.step_index.tolist()):
        distinct = sorted({s for s in steps if s >= 0})
        passes.append(math.ceil(len(distinct) / shrink))
        for first in range(0, len(distinct), shrink):
            group = distinct[first : first + shrink]
            canvas = rollout.tokens[b].clone()
            canvas[[i for i, s in enumerate(steps) if s >= group[0]]] = toy.mask_column
            logp = toy.logits(canvas[None])[0].log_softmax(-1)
            for i, s in enumerate(steps):
                if s in group:
                    found[b, i] = logp[i, rollout.tokens[b, i]]
    return found, passes


@pytest.mark.parametrize("shrink", [1, 2, 3, 5, 100])
def test_shrink_merges_steps(shrink: int) -> None:
    toy = small_toy(length=LENGTH, vocab_size=9)
    for name in ("random", "blocks"):
        out = recorded(toy, name)
        expected, passes = by_hand(toy, rollout_of(out), shrink)
        for given in (out, rollout_of(out)):
            found = replay(toy, given, shrink=shrink)
            assert (found.logprob - expected).abs().max() <= 1e-12
            assert found.nfe.tolist() == passes
            assert found.step_logprob.shape == (ROWS, max(passes))
            assert (found.step_logprob.sum(1) - expected.sum(1)).abs().max() <= 1e-12
    if shrink == 100:
        assert passes == [1] * ROWS


def every_rollout(sizes: tuple[int, ...]) -> Rollout:
    """All orders of writing 3 positions in steps of the given sizes, and all tokens."""
    steps = sorted(set(itertools.permutations(k for k, n in enumerate(sizes) for _ in range(n))))
    texts = list(itertools.product(range(SYMBOLS), repeat=3))
    pairs = list(itertools.product(steps, texts))
    index = torch.tensor([s for s, _ in pairs], dtype=torch.int32)
    return Rollout.of_steps(torch.tensor([x for _, x in pairs]), index, mask_token_id=MASK)


def enumerated(toy: Denoiser, sizes: tuple[int, ...]) -> Tensor:
    """Law of the text of the sampler that writes uniformly random positions, [27]."""
    law: dict[tuple[int, ...], Tensor] = {(MASK,) * 3: torch.ones((), dtype=torch.float64)}
    for size in sizes:
        after: dict[tuple[int, ...], Tensor] = {}
        for canvas, mass in law.items():
            p = toy.logits(torch.tensor([canvas]))[0, :, :SYMBOLS].softmax(-1)
            open_ = [i for i, v in enumerate(canvas) if v == MASK]
            choices = list(itertools.combinations(open_, size))
            for places in choices:
                for values in itertools.product(range(SYMBOLS), repeat=size):
                    put = dict(zip(places, values, strict=True))
                    key = tuple(put.get(i, v) for i, v in enumerate(canvas))
                    share = torch.stack([p[i, v] for i, v in put.items()]).prod()
                    after[key] = after.get(key, 0.0) + mass * share / len(choices)
        law = after
    return torch.stack([law[x] for x in itertools.product(range(SYMBOLS), repeat=3)])


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1), (3,)], ids=str)
def test_all_trajectories_add_up_to_the_samplers_law(sizes: tuple[int, ...]) -> None:
    toy, rollout = small_toy(), every_rollout(sizes)
    orders = len(rollout.tokens) // SYMBOLS**3
    chance = replay(toy, rollout).total.exp() / orders
    assert abs(float(chance.sum()) - 1.0) <= 1e-12
    text = (rollout.tokens * torch.tensor([9, 3, 1])).sum(1)
    marginal = torch.zeros(27, dtype=torch.float64).index_add(0, text, chance)
    assert (marginal - enumerated(toy, sizes)).abs().max() <= 1e-12
    if sizes == (2, 1):
        mean_field = replay(toy, rollout, shrink=2).total.exp() / orders
        wrong = torch.zeros(27, dtype=torch.float64).index_add(0, text, mean_field)
        assert (wrong - enumerated(toy, sizes)).abs().max() > 1e-3


class Trainable(Denoiser):
    """Hidden states that depend on all tokens, and a head, in float64."""

    def __init__(self, table: Tensor, head: Callable[[Tensor], Tensor], mask: int) -> None:
        super().__init__(vocab_size=len(table), mask_token_id=mask)
        self.table, self.head = table, head

    def forward(self, inputs: Pass) -> DenoiserOutput:
        e = self.table[inputs.tokens]
        place = torch.arange(1, e.shape[1] + 1).double().unsqueeze(1) * 0.3
        return DenoiserOutput((e.sum(1, keepdim=True) * place).sin() + 0.5 * e, self.head)


def trainable(seed: int = 0) -> tuple[Tensor, nn.Linear, Callable[[Tensor], Trainable]]:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(MASK + 1, 3, generator=generator, dtype=torch.float64)
    head = nn.Linear(3, MASK + 1).double()
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return table.requires_grad_(), head, lambda table: Trainable(table, head, MASK)


LAWS = [TokenLaw(), TokenLaw(temperature=0.6, top_k=2, suppressed=(1,))]


@pytest.mark.parametrize("law", LAWS, ids=["model", "filtered"])
def test_gradients_are_those_of_finite_differences(law: TokenLaw) -> None:
    table, head, model = trainable()
    rollout = every_rollout((2, 1))
    keep = torch.arange(0, len(rollout.tokens), 7)
    if law.filters:  # the tokens that pass the filters
        possible = replay(model(table), rollout, law=law, grad=False).total.isfinite()
        keep = possible.nonzero().squeeze(1)[:6]
    rollout = rollout.select(keep)

    def logprob(table: Tensor, weight: Tensor, shrink: int = 1) -> Tensor:
        net = Trainable(table, lambda h: nn.functional.linear(h, weight, head.bias), MASK)
        return replay(net, rollout, law=law, shrink=shrink).logprob

    assert torch.autograd.gradcheck(logprob, (table, head.weight.detach().requires_grad_()))
    found = replay(model(table), rollout, law=law)
    assert found.logprob.requires_grad
    with torch.no_grad():
        plain = replay(model(table), rollout, law=law)
    assert not plain.logprob.requires_grad
    assert (found.logprob - plain.logprob).abs().max() <= 1e-12
    assert not replay(model(table), rollout, law=law, grad=False).logprob.requires_grad
    with torch.no_grad():
        assert replay(model(table), rollout, law=law, grad=True).logprob.requires_grad


def test_reinforce_over_all_trajectories_is_the_gradient_of_the_mean_reward() -> None:
    table, head, model = trainable()
    sizes = (1, 1, 1)
    rollout = every_rollout(sizes)
    reward = torch.randn(27, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    text = (rollout.tokens * torch.tensor([9, 3, 1])).sum(1)
    leaves = (table, *head.parameters())
    logprob = replay(model(table), rollout).total
    chance = logprob.detach().exp() / 6
    found = torch.autograd.grad((chance * reward[text] * logprob).sum(), leaves)
    expected = torch.autograd.grad((enumerated(model(table), sizes) * reward).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-10
        assert other.abs().max() > 1e-3


def test_rewritten_tokens_are_scored_at_every_write() -> None:
    toy = small_toy(length=LENGTH, vocab_size=9)
    sampler = samplers.create("remdm-cap", eta=0.5)
    out = run(toy, sampler, length=LENGTH, rows=ROWS, law=TokenLaw(), steps=8)
    assert out.trajectory is not None
    expected = torch.zeros(ROWS, dtype=torch.float64)
    writes = torch.zeros(out.tokens.shape, dtype=torch.int64)
    greedy = torch.zeros(out.tokens.shape, dtype=torch.bool)
    for event in out.trajectory.events:
        new = event.written & ~event.unknown
        writes[event.rows] += new
        expected[event.rows] += (event.logprob * new).sum(1)
        greedy[event.rows] = torch.where(new, event.logprob == 0.0, greedy[event.rows])
    assert (writes > 1).any()
    found = replay(toy, out)
    last_write = (found.logprob - out.logprob).masked_fill(greedy, 0.0)
    assert last_write.abs().max() <= 1e-6  # the last step's noise removal is an argmax
    rows = ~greedy.any(1)
    assert rows.any()
    assert (found.total - expected)[rows].abs().max() <= 1e-6
    assert (found.total - found.logprob.sum(1)).abs().max() > 0.1  # the replaced tokens count
    assert (found.position_logprob.sum(1) - found.total).abs().max() <= 1e-12
    again = replay(toy, rollout_of(out))
    assert torch.equal(again.step_logprob, found.step_logprob)
    assert torch.equal(again.logprob, found.logprob)


def test_merged_steps_are_scored_on_what_they_leave_behind() -> None:
    """A token written and masked again, or replaced, within one group is no part of its outcome."""
    toy = small_toy(length=LENGTH, vocab_size=9)
    out = run(toy, samplers.create("remdm-cap", eta=0.5), length=LENGTH, rows=ROWS,
              law=TokenLaw(), steps=12)  # fmt: skip
    assert out.trajectory is not None
    lost = 0
    found = replay(toy, out, shrink=3)
    for b in range(ROWS):
        steps = [(e, i, e.written[i] & ~e.unknown[i]) for e, i in out.trajectory.steps(b)]
        starts = [k for k, (_, _, new) in enumerate(steps) if new.any()]
        for g, first in enumerate(starts[::3]):
            closing = starts[3 * g + 2] if 3 * g + 2 < len(starts) else len(steps) - 1
            group = steps[first : closing + 1]
            event, i, _ = group[0]
            last, j, _ = group[-1]
            ever = torch.stack([new for _, _, new in group]).any(0)
            left = ever & ~last.unknown[j]
            lost += int((ever & ~left).sum())
            logp = toy.logits(event.before[i][None])[0].log_softmax(-1)
            score = logp.gather(1, last.tokens[j].unsqueeze(1)).squeeze(1)[left].sum()
            assert abs(float(found.step_logprob[b, g]) - float(score)) <= 1e-12
        assert int(found.nfe[b]) == math.ceil(len(starts) / 3)
    assert lost > 0


def test_an_argmax_is_certain_and_has_no_gradient() -> None:
    """The last step of tau-leaping takes the argmax at temperature 1: log-probability 0."""
    denoiser = small_toy(length=LENGTH, vocab_size=9)
    out = run(denoiser, samplers.TauLeaping(t_end=0.5), length=LENGTH, rows=ROWS, steps=3)
    assert out.trajectory is not None
    last = torch.zeros(out.tokens.shape, dtype=torch.bool)
    for event in out.trajectory.events:
        assert event.drawn is not None
        last[event.rows] |= event.drawn == Drawn.ARGMAX
        assert torch.equal(event.drawn != Drawn.NOT, event.written)
    assert 5 < last.sum() < last.numel()
    model = denoiser.logits(torch.full_like(out.tokens, denoiser.mask_column)).log_softmax(-1)
    for given in (out, rollout_of(out)):
        found = replay(denoiser, given)
        assert bool((found.logprob[last] == 0.0).all())
        assert (found.logprob - out.logprob).abs().max() <= 1e-6
        together = replay(denoiser, given, shrink=100).logprob
        expected = model.gather(2, out.tokens.unsqueeze(2)).squeeze(2).masked_fill(last, 0.0)
        assert (together - expected).abs().max() <= 1e-12
        passes = (out.tokens >= 0).sum(1)  # a step whose tokens are all an argmax needs no pass
        assert bool((found.nfe < passes).all()) and bool((found.nfe <= 3).all())


def test_a_run_without_anything_drawn_is_told() -> None:
    toy = small_toy(length=LENGTH, vocab_size=9)
    out = run(toy, samplers.TauLeaping(t_end=0.999), length=LENGTH, rows=2, steps=1)
    with pytest.warns(SamplingWarning, match="every token of this run was taken as the argmax"):
        found = replay(toy, out)
    assert found.nfe.tolist() == [0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay(toy, out, grad=False)
        replay(toy, recorded(toy, "random"))


def test_times_and_hidden_blocks_are_remembered() -> None:
    base = small_toy(length=LENGTH, vocab_size=9)

    class Timed(FixtureToy):
        def forward(self, inputs: Pass) -> DenoiserOutput:
            assert inputs.t is not None
            out = super().forward(inputs)
            return out._replace(values=out.values * (0.2 + inputs.t)[:, None, None])

    timed = Timed(base.embedding, base.positions, base.mask_column)
    timed.time_conditioned = True
    out = run(timed, samplers.Ancestral(noise_removal="sample"), length=LENGTH, rows=ROWS, steps=5)
    assert (replay(timed, out).logprob - out.logprob).abs().max() <= 1e-6
    assert (replay(timed, rollout_of(out)).logprob - out.logprob).abs().max() <= 1e-6
    unaware = run(base, samplers.Ancestral(), length=LENGTH, rows=2, steps=5)
    with pytest.raises(ValueError, match="times"):
        replay(timed, unaware)
    hidden = base.variant(honours_padding=False)
    blocks = {"block_length": 3, "causal_blocks": True, "law": TokenLaw()}
    out = run(hidden, samplers.LLaDA(), length=LENGTH, rows=ROWS, **blocks)
    assert (replay(hidden, out).logprob - out.logprob).abs().max() <= 1e-6
    assert (replay(hidden, rollout_of(out)).logprob - out.logprob).abs().max() <= 1e-6


def test_a_recorded_step_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "check_device", lambda *_: None)
    monkeypatch.setattr(loop, "record", recorder)
    toy = small_toy(length=LENGTH, vocab_size=9).variant(mask_logit=None)
    plain, graph = (recorded_graph(toy, on) for on in (False, True))
    found = [replay(toy, given).logprob for given in (plain, graph, rollout_of(graph))]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def recorded_graph(toy: Denoiser, on: bool) -> SampleOutput:
    tokens = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    return sample(
        toy, samplers.LLaDA(order="margin"), tokens, torch.ones_like(tokens).bool(),
        seeds=ops.row_seeds(1, ROWS), law=TokenLaw(), block_length=3, causal_blocks=False,
        return_trajectory=True, cuda_graph=on,
    )  # fmt: skip


def test_text_that_was_cut_is_kept_as_the_model_saw_it() -> None:
    toy = small_toy(length=LENGTH, vocab_size=9)
    toy.eos_token_id, toy.pad_token_id = 0, 7
    options: dict[str, Any] = {"max_new_tokens": LENGTH - 1, "num_return_sequences": 40, "seed": 3}
    for eos, sampler in (
        ("cut", samplers.LLaDA()),
        ("stop", samplers.LLaDA(order="left_to_right")),
    ):
        out = generate(
            toy, [[1]], sampler=sampler, temperature=1.0, eos=eos, return_trajectory=True, **options
        )  # fmt: skip
        rollout = Rollout.from_output(out)
        kept = out.logprobs != 0
        hidden = kept & (out.sequences == toy.pad_token_id) & (rollout.tokens != out.sequences)
        assert bool(hidden.any()) if eos == "cut" else "eos" in out.finish_reasons
        assert torch.equal(out.logprobs, rollout.logprob.float())  # also behind the end of a text
        assert torch.equal(rollout.step_index >= 0, rollout.logprob != 0)
        found = replay(toy, rollout).logprob
        assert (found - out.logprobs)[kept].abs().max() <= 1e-6
        assert (found - rollout.logprob).abs().max() <= 1e-6
        assert rollout.seeds == tuple(out.seeds)


def test_entropies_are_those_behind_a_penalty() -> None:
    toy = small_toy(length=LENGTH, vocab_size=9)
    law = TokenLaw(repetition_penalty=2.5)
    out = recorded(toy, "random", law)
    found = replay(toy, out, entropy=True).entropy
    plain = replay(toy, out, law="model", entropy=True).entropy
    assert found is not None
    assert plain is not None
    assert (found - plain).abs().max() > 0.01
    # Its mean is that of -log p over runs: here over one row many times.
    many = run(toy, ORDERS["random"][0], length=LENGTH, rows=400, prompt=[1], law=law, steps=3)
    scores = replay(toy, many, entropy=True)
    assert scores.entropy is not None
    gap = (-scores.logprob - scores.entropy).sum(1)
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / 20


@pytest.mark.parametrize("law", [TokenLaw(), TokenLaw(temperature=0.7, top_k=3)], ids=str)
def test_entropies_are_those_of_the_laws_that_scored(law: TokenLaw) -> None:
    toy = small_toy(length=LENGTH, vocab_size=9)
    out = recorded(toy, "random", law)
    found = replay(toy, out, entropy=True)
    assert torch.equal(found.position_logprob, found.logprob)
    for b in range(ROWS):
        for event, i in out.trajectory.steps(b) if out.trajectory else ():
            logits = toy.logits(event.before[i : i + 1])[0].index_fill(
                1, torch.tensor(toy.mask_column), -math.inf
            )
            p = ops.log_probs(logits, law=law).exp()
            for j in event.written[i].nonzero().flatten().tolist():
                assert found.entropy is not None
                wanted = float(torch.special.entr(p[j]).sum())
                assert float(found.entropy[b, j]) == pytest.approx(wanted, abs=1e-9)
    assert replay(toy, out).entropy is None
    with pytest.raises(TypeError, match="entropy"):
        replay(toy, out, entropy=1)  # pyright: ignore[reportArgumentType]


def test_what_cannot_be_replayed_is_refused() -> None:
    toy = small_toy(length=LENGTH, vocab_size=9)
    out = recorded(toy, "random")
    with pytest.raises(ValueError, match="shrink=0"):
        replay(toy, out, shrink=0)
    for name, value in (("shrink", 2.5), ("shrink", True), ("shrink", "2"), ("grad", 1)):
        with pytest.raises(TypeError, match=f"{name}={value!r}: must be"):
            replay(toy, out, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"denoiser is a Linear: must be a Denoiser.* wrap"):
        replay(torch.nn.Linear(1, 1), out)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size=0"):
        replay(toy, out, batch_size=0)
    with pytest.raises(ValueError, match="seeds has 1 entries for 6 rows"):
        Rollout.from_output(out, [1])
    bare = replace(out, trajectory=None)
    with pytest.raises(ValueError, match="return_trajectory=True"):
        replay(toy, bare)
    with pytest.raises(ValueError, match="return_trajectory=True"):
        Rollout.from_output(bare)
    maskless = wrap(lambda input_ids: toy.logits(input_ids), vocab_size=9, mask_token_id=None)
    with pytest.raises(ValueError, match="run was on masks, and this denoiser"):
        replay(maskless, rollout_of(out))
    assert out.trajectory is not None
    noise = run(maskless, samplers.Ancestral(), length=LENGTH, rows=2, steps=3)
    with pytest.raises(ValueError, match="shrink=2: must be 1 here"):
        replay(maskless, noise, shrink=2)
    with pytest.raises(ValueError, match="entropy=True: the steps of this run"):
        replay(maskless, noise, entropy=True)
    everywhere = replay(maskless, noise).position_logprob
    assert (everywhere.sum(1) - replay(maskless, noise).total).abs().max() <= 1e-6
    assert noise.trajectory is not None
    with pytest.raises(ValueError, match="does not tell the settings"):
        replay(maskless, replace(noise.trajectory, request=None))


def test_a_network_gets_the_gradient_of_its_logits(tiny_llada: Path) -> None:
    denoiser = AutoDenoiser.from_pretrained(tiny_llada)
    out = generate(denoiser, "abc", max_new_tokens=6, steps=3, seed=0, temperature=1.0,
                   num_return_sequences=3, return_trajectory=True)  # fmt: skip
    rollout = Rollout.from_output(out)
    assert denoiser.module is not None
    weights = list(denoiser.module.parameters())
    found = torch.autograd.grad(replay(denoiser, rollout, shrink=3).total.sum(), weights)
    mask = denoiser.mask_token_id
    assert mask is not None
    logits = denoiser.logits(rollout.tokens.masked_fill(rollout.editable, mask)).float()
    logits = logits.index_fill(2, torch.tensor([mask, *denoiser.suppressed]), -torch.inf)
    logp = logits.log_softmax(-1).gather(2, rollout.tokens.unsqueeze(2)).squeeze(2)
    expected = torch.autograd.grad(logp[rollout.step_index >= 0].sum(), weights)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert max(float(g.abs().max()) for g in expected) > 0.1


@pytest.mark.parametrize("rows", [1, 3])
def test_steps_taken_again_do_not_depend_on_the_size_of_their_batches(rows: int) -> None:
    """Under uniform noise all rows together, in parts, and one by one."""
    toy = small_toy(length=4, vocab_size=5)
    maskless = wrap(lambda input_ids: toy.logits(input_ids), vocab_size=5, mask_token_id=None)
    out = run(maskless, samplers.Ancestral(), length=4, rows=rows, steps=3, law=TokenLaw())
    rollout = rollout_of(out)
    whole = replay(maskless, rollout)
    assert whole.logprob.shape == (rows, 4)
    assert (whole.total - rollout.total).abs().max() <= 1e-5
    assert torch.equal(whole.nfe, out.nfe)
    for size in (1, 2, 3, 5):
        part = replay(maskless, rollout, batch_size=size)
        torch.testing.assert_close(part.logprob, whole.logprob)
        torch.testing.assert_close(part.step_logprob, whole.step_logprob)
        assert torch.equal(part.nfe, whole.nfe)
    nothing = replay(maskless, rollout.select(torch.zeros(0, dtype=torch.int64)))
    assert nothing.logprob.shape == (0, 4) and nothing.nfe.shape == (0,)


@pytest.mark.parametrize("name", [*ORDERS, "remasking"])
@pytest.mark.parametrize("shrink", [1, 2])
def test_windows_score_their_steps_and_pay_for_no_other(name: str, shrink: int) -> None:
    toy = small_toy(length=LENGTH, vocab_size=9)
    if name == "remasking":
        sampler = samplers.create("remdm-conf")
        out = run(toy, sampler, length=LENGTH, rows=ROWS, prompt=[1], law=TokenLaw(), steps=8)
    else:
        out = recorded(toy, name)
    whole = replay(toy, out, grad=False)
    widths, total, nfe = (0, 2, 4, 100), torch.zeros(ROWS).double(), torch.zeros(ROWS).long()
    steps = (whole.step_logprob != 0).sum(1)
    seen = torch.zeros_like(whole.scored)
    for pair in itertools.pairwise(widths):
        part = replay(toy, rollout_of(out), window=pair, shrink=shrink, grad=False)
        count = (steps.clamp(max=pair[1]) - pair[0]).clamp_min(0)
        assert torch.equal(part.nfe, -(-count // shrink))
        if shrink == 1:
            expected = whole.step_logprob[:, pair[0] : pair[1]]
            assert (part.total - expected.sum(1)).abs().max() <= 1e-12
        assert bool((part.logprob[~part.scored] == 0).all())
        total, nfe, seen = total + part.total, nfe + part.nfe, seen | part.scored
    assert torch.equal(seen, whole.scored) and torch.equal(nfe, whole.nfe) == (shrink == 1)
    if shrink == 1:
        assert (total - whole.total).abs().max() <= 1e-12
    # A window is the same as the same steps of a whole replay: token by token.
    if name != "remasking":
        part = replay(toy, out, window=(1, 3), grad=False)
        assert 0 < int(part.scored.sum()) < int(whole.scored.sum())
        assert (part.logprob - whole.logprob)[part.scored].abs().max() <= 1e-12


@pytest.mark.parametrize(
    ("window", "message"),
    [((2, 2), "must be 0 <= a < b"), ((-1, 2), "must be 0 <= a < b"), (3, "must be a pair"),
     ((0.0, 2), r"window\[0\]"), ([0, 2], "must be a pair"), ((0, 1, 2), "must be a pair")],
)  # fmt: skip
def test_wrong_windows_are_named(window: Any, message: str) -> None:
    toy = small_toy(length=LENGTH, vocab_size=9)
    with pytest.raises((TypeError, ValueError), match=message):
        replay(toy, recorded(toy, "random"), window=window)
