from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from dlm_eval import speed

CLOCK = [0.0]


def test_the_ratios_are_of_the_least_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt costs 1, a long one 4, the first call of each kind 50 more; compiled layers half."""
    seen: set[str] = set()

    def generate(cost: float, prompts: object, **settings: object) -> SimpleNamespace:
        texts = [prompts] if isinstance(prompts, str) else list(prompts)  # type: ignore[call-overload]
        CLOCK[0] += cost * sum(4.0 if len(text) > 200 else 1.0 for text in texts)
        kind = f"{cost} {len(texts)} {max(map(len, texts))}"
        CLOCK[0] += 0.0 if kind in seen else 50.0
        seen.add(kind)
        return SimpleNamespace(sequences=torch.tensor([3, settings["steps"]]))

    monkeypatch.setattr(speed, "generate", generate)
    monkeypatch.setattr(speed.time, "process_time", lambda: CLOCK[0])
    found = speed.mixed_lengths(1.0, 2)  # type: ignore[arg-type]
    assert found == {"short": 7.0, "long": 4.0, "all": 11.0, "short_beside_long": 1.0}
    layers = speed.compiled_layers(1.0, 0.5, 2)  # type: ignore[arg-type]
    assert layers == {"eager": 4.0, "compiled": 2.0, "times_faster": 2.0, "same_tokens": True}
