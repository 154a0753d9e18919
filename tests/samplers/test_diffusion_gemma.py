"""DiffusionGemma: temperatures, what is accepted and drawn anew, the end, the law of the result."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import ops
from dlm_sampling.denoisers import wrap
from dlm_sampling.denoisers.base import Denoiser
from dlm_sampling.engine.sample import sample
from dlm_sampling.prediction.predictor import Predictor
from dlm_sampling.processes import Uniform
from dlm_sampling.samplers import DiffusionGemma
from dlm_sampling.samplers.diffusion_gemma import fresh_noise
from dlm_sampling.testing import chi_square, count_states, product_law
from dlm_sampling.testing.laws import all_states
from dlm_sampling.types import Canvas, Clock, DenoiserOutput, Pass, TokenLaw

ALL = torch.ones(1, 6).bool()


def test_the_temperature_falls_linearly_and_stops_short_of_t_min() -> None:
    rule = DiffusionGemma()
    steps = torch.full((48,), 48)
    t = rule.temperature(Clock(torch.arange(48), steps))
    assert float(t[0]) == pytest.approx(0.8)
    assert float(t[-1]) == pytest.approx(0.4 + 0.4 / 48)
    torch.testing.assert_close(t.diff(), torch.full((47,), -0.4 / 48, dtype=torch.float64))


def test_what_is_accepted_is_the_longest_prefix_within_the_bound() -> None:
    """Against the definition: the longest head in order of entropy with sum - max <= gamma."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        entropy = torch.rand(1, 6, generator=generator, dtype=torch.float64)
        for gamma in (0.0, 0.1, 0.5, 2.0, 9.0):
            ordered = entropy[0].sort().values.tolist()
            fits = [k for k in range(1, 7) if sum(ordered[: k - 1]) <= gamma]
            accepted = DiffusionGemma(gamma).accept(entropy, ALL)
            assert int(accepted.sum()) == max(fits)
            assert float(entropy[accepted].max()) == ordered[max(fits) - 1]


def test_positions_that_are_not_editable_are_never_accepted() -> None:
    editable = torch.tensor([[True, False, True, False, True, True]])
    accepted = DiffusionGemma(9.0).accept(torch.zeros(1, 6), editable)
    assert torch.equal(accepted, editable)


def test_new_noise_is_uniform_and_not_the_first_canvas() -> None:
    """Chi-square of one position, and of the pair with the first canvas, at the same step."""
    rows, vocab = 4_000, 5
    rng, like = ops.Rng.from_seeds(ops.row_seeds(1, rows)), torch.zeros(rows, 1).long()
    fresh, first = fresh_noise(like, rng, vocab), Uniform().prior(like, rng, vocab)
    pairs = torch.bincount((fresh * vocab + first).flatten(), minlength=vocab**2)
    assert chi_square(pairs, torch.full((vocab**2,), vocab**-2.0)).p > 1e-4
    assert not torch.equal(fresh, fresh_noise(like, rng.with_step(rng.step + 1), vocab))


def test_new_noise_does_not_depend_on_the_batch() -> None:
    like, rng = torch.zeros(4, 64, dtype=torch.int64), ops.Rng.from_seeds([1, 2, 3, 4])
    together = fresh_noise(like, rng, 50_257)
    assert int(together.min()) >= 0
    assert int(together.max()) < 50_257
    for b in range(4):
        assert torch.equal(
            together[b], fresh_noise(like[:1], rng.select(torch.tensor([b])), 50_257)[0]
        )
    for a, b in itertools.combinations(range(4), 2):
        assert not torch.equal(together[a], together[b])


def canvas_of(tokens: Tensor, editable: Tensor) -> Canvas:
    return Canvas(tokens, editable.clone(), editable, torch.zeros(len(tokens)).long(), None)


def looks(rule: DiffusionGemma, bests: list[Tensor], entropy: Tensor, where: Tensor) -> list[Any]:
    """Which rows are over after each step of one block."""
    canvas = canvas_of(bests[0], where)
    state, seen = rule.init(canvas), list[Any]()
    for k, best in enumerate(bests):
        clock = Clock(torch.full((len(best),), k), torch.full((len(best),), 48))
        state = rule.settled(state, best, entropy, canvas, clock)
        seen.append(rule.finished(state, canvas, clock).tolist())
    return seen


def test_a_row_is_over_when_its_argmax_is_stable_and_sure() -> None:
    rule = DiffusionGemma(stable_steps=2, confidence=0.01)
    first, other = torch.tensor([[1, 2, 3], [1, 2, 3]]), torch.tensor([[1, 2, 3], [1, 2, 4]])
    where = torch.ones(2, 3).bool()
    sure = torch.tensor([[0.0, 0.0, 0.02], [0.0, 0.0, 0.02]])
    steps = [first, first, other, other, other]
    # Row 0 never changes: over from the third look on.  Row 1 changes at the third.
    expected = [[False, False], [False, False], [True, False], [True, False], [True, True]]
    assert looks(rule, steps, sure, where) == expected
    assert looks(rule, steps, sure + 1.0, where) == [[False, False]] * 5
    assert looks(DiffusionGemma(stable_steps=0), [first], 0 * sure, where) == [[True, True]]


def test_a_new_block_starts_without_a_history() -> None:
    rule, canvas = DiffusionGemma(), canvas_of(torch.ones(2, 3).long(), torch.ones(2, 3).bool())
    state = rule.init(canvas)
    for step in ([0, 0], [1, 0]):  # the second row has entered another block
        clock = Clock(torch.tensor(step), torch.tensor([48, 48]))
        state = rule.settled(state, canvas.tokens, torch.zeros(2, 3), canvas, clock)
    assert state.over.tolist() == [True, False]


def test_positions_outside_do_not_count_for_the_stop() -> None:
    where = torch.tensor([[True, False]])
    bests = [torch.tensor([[1, 5]]), torch.tensor([[1, 6]])]
    over = looks(DiffusionGemma(), bests, torch.tensor([[0.0, 9.0]]), where)
    assert over == [[False], [True]]


VOCAB, LENGTH = 3, 2
LOGITS = torch.randn(9, LENGTH, VOCAB, generator=torch.Generator().manual_seed(21)).double() * 2


def toy(input_ids: Tensor) -> Tensor:
    """A table of logits over the nine canvases of two positions."""
    return LOGITS[input_ids[:, 0] * VOCAB + input_ids[:, 1]]


def exact_law(rule: DiffusionGemma, steps: int) -> Tensor:
    """Law of the result: every canvas is enumerated, the result is a function of the last one."""
    states = all_states(LENGTH, VOCAB)
    law = torch.full((9,), 1 / 9, dtype=torch.float64)
    history = {None: law}  # argmax canvas of the step before -> law of the present canvas
    result = torch.zeros(9, dtype=torch.float64)
    for k in range(steps):
        heat = rule.t_min + (rule.t_max - rule.t_min) * (steps - k) / steps
        p = (LOGITS / heat).softmax(-1)
        entropy, best = -(p * p.log()).sum(-1), p.argmax(-1)
        index = best[:, 0] * VOCAB + best[:, 1]
        ordered, order = entropy.sort(-1)
        fits = ordered.cumsum(-1) - ordered <= rule.gamma
        accepted = torch.zeros_like(fits).scatter(1, order, fits)
        step = product_law(torch.where(accepted.unsqueeze(-1), p, torch.full_like(p, 1 / VOCAB)))
        after: dict[int | None, Tensor] = {}
        for before, mass in history.items():
            for z in range(9):
                here = int(index[z])
                sure = float(entropy[z].mean()) < rule.confidence
                if k == steps - 1 or (here == before and sure):
                    result[here] += mass[z]
                else:
                    blank = torch.zeros(9, dtype=torch.float64)
                    after[here] = after.get(here, blank) + mass[z] * step[z]
        history = after
    assert len(states) == 9
    return result


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_loop_has_the_law_of_the_rule(steps: int) -> None:
    """Fresh noise in every step, the temperature of the step, the argmax canvas as the result."""
    rule, rows = DiffusionGemma(gamma=0.6, t_max=1.1, t_min=0.3, confidence=0.5), 30_000
    denoiser = wrap(toy, vocab_size=VOCAB, mask_token_id=None)
    tokens = torch.zeros(rows, LENGTH, dtype=torch.int64)
    out = sample(
        denoiser,
        rule,
        tokens,
        torch.ones_like(tokens).bool(),
        seeds=ops.row_seeds(steps, rows),
        steps=steps,
    )
    counts = count_states(out.tokens, VOCAB)
    assert chi_square(counts, exact_law(rule, steps)).p > 1e-4
    if steps == 4:  # the test would see other noise, another schedule, or a rule without an end
        for other in ({"gamma": 2.0}, {"t_max": 0.3}, {"confidence": 0.0}):
            wrong = exact_law(replace(rule, **other), steps)
            assert chi_square(counts, wrong).p < 1e-6


class Carrying(Denoiser):
    """Logits of the canvas, which it also carries."""

    carries = True

    def forward(self, inputs: Pass) -> DenoiserOutput:
        logits = toy(inputs.tokens) + (0.0 if inputs.carry is None else inputs.carry)
        return DenoiserOutput(logits, carry=logits)

    def initial_carry(self, input_ids: Tensor) -> Tensor:
        return torch.zeros(len(input_ids), LENGTH, VOCAB, dtype=torch.float64)

    def temper(self, carry: Any, temperature: Tensor) -> Any:
        return carry / temperature.view(-1, 1, 1)


def test_a_temperature_per_row_divides_logits_and_what_is_carried() -> None:
    x = torch.tensor([[0, 1], [2, 2], [1, 0]])
    everywhere, t = torch.ones_like(x).bool(), torch.ones(3).double()
    heat = torch.tensor([0.25, 1.0, 3.0], dtype=torch.float64)
    model = Carrying(vocab_size=VOCAB, mask_token_id=None)
    predictor = Predictor.alone(model, TokenLaw(), everywhere)
    scaled = toy(x) / heat.view(-1, 1, 1)
    first = predictor(x, t, heat)
    torch.testing.assert_close(first.log_probs(everywhere), scaled.log_softmax(-1).flatten(0, 1))
    entropy = torch.distributions.Categorical(logits=scaled).entropy()
    draw = first.draw(everywhere, ops.Rng.from_seeds([1, 2, 3]))
    torch.testing.assert_close(draw.entropy.double(), entropy)
    second = predictor(x, t).log_probs(everywhere)
    torch.testing.assert_close(second, (toy(x) + scaled).log_softmax(-1).flatten(0, 1))
    some = torch.tensor([[False, False], [False, True], [True, False]])
    again = predictor(x, t, heat).table(some, alpha=t / 2, reads="posterior")
    expected = ((2 * toy(x) + scaled) / heat.view(-1, 1, 1)).softmax(-1)[some]
    torch.testing.assert_close(again, expected)


def test_errors_name_the_field_and_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"t_min=0\.9, t_max=0\.8: need 0 <= t_min <= t_max"):
        DiffusionGemma(t_min=0.9)
    with pytest.raises(ValueError, match=r"gamma=-1\.0: must be finite and >= 0"):
        DiffusionGemma(gamma=-1.0)
    with pytest.raises(ValueError, match="max_steps=0"):
        DiffusionGemma(max_steps=0)


def test_a_position_stays_unknown_until_its_row_is_over() -> None:
    tokens = torch.tensor([[0, 1], [2, 2]])
    net = wrap(toy, vocab_size=VOCAB, mask_token_id=None)
    canvas, rule = canvas_of(tokens, torch.tensor([[True, True], [True, False]])), DiffusionGemma()
    predict = Predictor.alone(net, TokenLaw(), torch.ones(2, LENGTH).bool())
    rng = ops.Rng.from_seeds([1, 2])
    for last in ([False, False], [True, False], [False, True]):
        clock = Clock(torch.tensor(last).long() * 4, torch.tensor([5, 5]))
        _, done = rule.step(rule.init(canvas), canvas, clock, predict, rng)
        open_ = ~torch.tensor(last).unsqueeze(1) & canvas.unknown
        assert torch.equal(done.unknown, open_)
