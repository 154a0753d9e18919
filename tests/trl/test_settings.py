"""Settings of TRL that do not apply to diffusion models, and those that `generate` takes over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dlm_sampling.trl.settings import check_settings, law_of


def settings(**other: Any) -> SimpleNamespace:
    own = {"temperature": 0.8, "top_k": 0, "top_p": 0.9, "min_p": None, "max_completion_length": 7}
    own |= {"chat_template_kwargs": None, "ddp_broadcast_buffers": None}
    return SimpleNamespace(**{**own, **other})


def test_the_law_is_that_of_the_config() -> None:
    found = law_of(settings(), {"steps": 3})
    wanted = {"temperature": 0.8, "top_k": None, "top_p": 0.9, "min_p": None, "steps": 3}
    assert found == {**wanted, "max_new_tokens": 7}
    assert "max_new_tokens" not in law_of(settings(), {"infill": True})
    chat = law_of(settings(chat_template_kwargs={"enable_thinking": False}), {})
    assert chat["chat_template_kwargs"] == {"enable_thinking": False}


def test_ranks_do_not_wait_for_buffers_unless_asked_to() -> None:
    args = settings()
    check_settings(args, {}, {})
    assert args.ddp_broadcast_buffers is False
    args = settings(ddp_broadcast_buffers=True)
    check_settings(args, {}, {})
    assert args.ddp_broadcast_buffers is True


@pytest.mark.parametrize(
    ("args", "generation", "given", "message"),
    [
        ({}, {"top_p": 0.5}, {}, r"generation\['top_p'\]: set it in GRPOConfig\(top_p=\)"),
        ({}, {"max_new_tokens": 5}, {}, r"GRPOConfig\(max_completion_length=\)"),
        ({}, {"seed": 5}, {}, r"GRPOConfig\(seed=\)"),
        ({}, {"num_return_sequences": 2}, {}, r"GRPOConfig\(num_generations=\)"),
        ({"use_vllm": True}, {}, {}, "use_vllm=True: must be False"),
        ({"sync_ref_model": True}, {}, {}, "sync_ref_model=True: must be False"),
        ({"temperature": 0.0}, {}, {}, "temperature=0.0: must be above 0"),
        ({"repetition_penalty": 1.1}, {}, {}, "repetition_penalty: must be 1.0"),
        ({}, {}, {"tools": [print]}, "tools: must be left out"),
    ],
)
def test_what_does_not_apply_is_refused(
    args: dict[str, Any], generation: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_settings(settings(**args), generation, given)


def test_a_config_is_needed() -> None:
    with pytest.raises(TypeError, match="args is missing: give a GRPOConfig"):
        check_settings(None, {}, {})
