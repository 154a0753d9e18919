"""What `dlm-sampling samplers NAME` says: every parameter, described once."""

from __future__ import annotations

import json
import re

import pytest

from dlm_sampling import samplers
from dlm_sampling.cli.parameters import parameter_names
from dlm_sampling.cli.samplers import describe, parameter_docs
from dlm_sampling.samplers import Entry
from dlm_sampling.samplers.parts.grid import GridSampler
from tests.cli.process import Command, assert_one_line

ENTRIES = list(samplers.available().values())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_parameter_is_described(entry: Entry) -> None:
    docs = parameter_docs(entry)
    assert docs.keys() == entry.parameters.keys()
    assert all(len(text) > 8 for text in docs.values()), docs
    shown = describe(entry, whole=True)
    for name, value in entry.parameters.items():
        assert f"\n        {name}={value!r}: {docs[name]}" in shown
    assert "Fields:" not in shown and "Args:" not in shown
    assert shown.count("NFE: ") == 1


def test_a_field_of_the_base_is_described_there_and_shown_with_what_the_subclass_adds() -> None:
    docs = parameter_docs(samplers.find("euler"))
    base = next(line for line in (GridSampler.__doc__ or "").splitlines() if "t_end:" in line)
    assert docs["t_end"] == base.split(": ")[1]
    assert docs["noise_removal"].endswith('posterior at t_end. "sample" is the released rule.')
    learned = parameter_docs(Entry("x", samplers.LearnedEuler))
    assert learned["t_end"] == f"{docs['t_end']} It counts without a learned grid only."


def test_the_names_of_all_parameters_are_read_without_the_samplers() -> None:
    built_in = [entry for entry in ENTRIES if entry.built_in]
    assert parameter_names() == {name for entry in built_in for name in entry.parameters}


def test_samplers_lists_all_with_paper_and_defaults(command: Command) -> None:
    text = command("samplers")
    records = json.loads(command("samplers", "--json").out)
    assert [r["name"] for r in records] == list(samplers.available())
    for record in records:
        assert record["name"] in text.out
        assert record["paper"] in text.out
        assert re.search(r"arXiv:\d{4}\.\d{5}", record["paper"])
        for parameter in record["parameters"]:
            assert f"{parameter}=" in text.out


def test_the_noise_is_named_in_the_words_of_the_readme(command: Command) -> None:
    assert "\n    Noise: masks, uniform, any matrix\n" in command("samplers", "ancestral").out
    noise = {r["name"]: r["noise"] for r in json.loads(command("samplers", "--json").out)}
    assert noise["llada"] == ["masks"] and noise["duo"] == ["uniform", "any matrix"]


def test_samplers_shows_one(command: Command) -> None:
    shown = command("samplers", "llada").out
    assert "arXiv:2502.09992" in shown
    assert "dlm-sampling generate 'Once upon a time' --sampler llada --set order=" in shown
    assert_one_line(command("samplers", "lladda"), 2, "Did you mean 'llada'?")
