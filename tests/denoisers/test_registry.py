"""A new family is one file of the folder, and which family loads a config depends on no order."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlm_sampling.denoisers import families
from dlm_sampling.denoisers.auto import load_families
from dlm_sampling.denoisers.registry import FAMILIES, family_of, register

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
EXPECTED = {
    "bd3lm_noadaln": "bd3lm",
    "ddpd_denoiser": "sedd",
    "ddpd_planner": "sedd",
    "llada2_moe": "llada2",
    "mdlm_hf": "mdlm",
    "sedd_absorb": "sedd",
    "sedd_uniform": "sedd",
}


def configs() -> dict[str, dict[str, Any]]:
    """The fixtures' configs and others that two families match, by the family that loads them."""
    read = {
        folder.name: json.loads((folder / "config.json").read_text())
        for folder in sorted(MODELS.iterdir())
        if (folder / "config.json").is_file()
    }
    bert = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    return {
        **read,
        "masked_lm": bert,
        "loopholing": {**read["mdlm_hf"], "loopholing": {"layer_norm_eps": 1e-5}},
        "loopholing/masked_lm": {**bert, "loopholing": {"layer_norm_eps": 1e-5}},
    }


def test_every_file_of_the_folder_registers_its_family() -> None:
    load_families()
    files = {file.stem for file in Path(*families.__path__).glob("*.py")} - {"__init__"}
    assert files - {"ddpd"} == set(FAMILIES)  # a planner is no family of denoisers


@pytest.mark.parametrize("name", sorted(configs()))
def test_one_family_alone_has_the_precedence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load_families()
    config = configs()[name]
    found = family_of(config)
    assert found is not None
    assert found.name == EXPECTED.get(name, name.split("/")[0])
    for family in reversed(list(FAMILIES.values())):  # the other order
        monkeypatch.delitem(FAMILIES, family.name)
        monkeypatch.setitem(FAMILIES, family.name, family)
    assert family_of(config) is found


def test_a_family_of_ones_own_comes_before_its_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    load_families()
    monkeypatch.setattr("dlm_sampling.denoisers.registry.FAMILIES", dict(FAMILIES))
    config = configs()["llada"]
    own = register(replace(FAMILIES["llada"], name="own"))
    assert family_of(config) is own
    register(replace(own, precedence=-1))
    assert family_of(config) is FAMILIES["llada"]
