"""A planner runs as a denoiser of one column, with the facts that it states."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlm_sampling.denoisers import DDPDPlanner, PlannerNetwork, wrap
from dlm_sampling.denoisers.planner import planner_network
from dlm_sampling.samplers import create
from dlm_sampling.schedules import LINEAR, LOG_LINEAR
from tests.samplers.small import run

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
UNIFORM = wrap(
    lambda input_ids: torch.zeros(*input_ids.shape, 5),
    vocab_size=5,
    mask_token_id=None,
    kind="leave_one_out",
)


def even(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    return (input_ids % 2).double() * 8.0 - 4.0


def test_the_signature_and_the_caller_state_the_facts() -> None:
    network = PlannerNetwork(even, takes=9, schedule=LINEAR)
    assert (network.vocab_size, network.takes, network.schedule) == (1, 9, LINEAR)
    assert network.honours_padding
    assert not network.time_conditioned
    assert network(torch.tensor([[2, 3]])).values.tolist() == [[[-4.0], [4.0]]]
    assert planner_network(network, UNIFORM) is network
    module = nn.Identity()
    assert PlannerNetwork(module).module is module
    ddpd = DDPDPlanner.from_pretrained(MODELS / "ddpd_planner")
    assert planner_network(ddpd, UNIFORM).takes == ddpd.vocab_size


def test_times_are_those_of_the_planners_own_schedule() -> None:
    """Equal levels: where the sampler's schedule has alpha, the planner's has the same."""
    told: list[float] = []

    def planner(input_ids: Tensor, t: Tensor) -> Tensor:
        told.append(float(t[0]))
        return torch.zeros(input_ids.shape)

    for own in (LOG_LINEAR, LINEAR):
        sampler = create("planned", planner=PlannerNetwork(planner, schedule=own))
        run(UNIFORM, sampler, length=2, rows=2, steps=3)
    half = len(told) // 2
    assert half >= 3
    assert told[:half] != told[half:]
    here, there = (torch.tensor(part).double() for part in (told[:half], told[half:]))
    torch.testing.assert_close(LOG_LINEAR.alpha(here), LINEAR.alpha(there))


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ("text", TypeError, "planner returned str"),
        (torch.zeros(1, 2, 5), ValueError, r"planner returned shape \(1, 2, 5\)"),
    ],
)
def test_wrong_outputs_are_refused(returned: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PlannerNetwork(lambda input_ids: returned)(torch.zeros(1, 2).long())


def test_too_few_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="planner takes 4 ids, and the denoiser writes 5"):
        planner_network(PlannerNetwork(even, takes=4), UNIFORM)
    masked = wrap(UNIFORM.fn, vocab_size=5, mask_token_id=4)  # type: ignore[attr-defined]
    assert planner_network(PlannerNetwork(even, takes=4), masked).takes == 4
