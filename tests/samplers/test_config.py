"""Sampler configs: their JSON form, their file, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlm_sampling.samplers import LLaDA
from dlm_sampling.samplers.config import SamplerConfig, from_config, load_config, save_config

FULL = SamplerConfig(
    "llada", {"order": "margin"}, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1,
    crossing="exclude", block_length=1, notes="ours",
)  # fmt: skip


def test_a_config_is_its_json_form_and_back(tmp_path: Path) -> None:
    assert SamplerConfig("llada").to_dict() == {
        "format": 1,
        "sampler": "llada",
        "sampler_options": {},
    }
    assert FULL.to_dict()["block_length"] == 1 and FULL.to_dict()["crossing"] == "exclude"
    for config in (FULL, SamplerConfig("llada")):
        assert from_config(config.to_dict()) == config
        path = save_config(config, tmp_path)
        assert path == tmp_path / "sampler_config.json"
        assert load_config(path) == load_config(tmp_path) == config
    bare: dict[str, Any] = {"sampler": "llada"}
    assert from_config(bare) == SamplerConfig("llada")
    assert FULL.build() == LLaDA("margin")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": 2}, ValueError, "has format 2: this version reads 1"),
        ({"sampler": "lada"}, ValueError, "llada"),
        ({"speed": 1}, TypeError, "speed"),
        ({"block_length": 0}, ValueError, "block_length=0: must be at least 1"),
        ({"block_length": 2.5}, TypeError, "block_length"),
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"top_k": 0}, ValueError, "top_k"),
        ({"top_p": 1.5}, ValueError, "top_p"),
        ({"sampler_options": {"order": "up"}}, ValueError, "order"),
        ({"sampler_options": {"sped": 1}}, TypeError, "sped"),
    ],
)
def test_what_cannot_be_is_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        from_config({"sampler": "llada", **change})


def test_a_config_names_its_sampler_and_a_file_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='has no "sampler"'):
        from_config({"format": 1})
    with pytest.raises(FileNotFoundError, match="no sampler config there"):
        load_config(tmp_path)
    (tmp_path / "sampler_config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_config(tmp_path)
