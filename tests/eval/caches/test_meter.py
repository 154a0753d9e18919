"""The meter of caches as a command: closed cases, figures by hand, refusals, resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dlm_eval.caches import meter
from dlm_eval.cli.app import app
from dlm_eval.cli.cache import table
from dlm_eval.journal import SettingsChanged
from typer.testing import CliRunner

from dlm_sampling.errors import UsageError


def run(out: Path, model: str, *words: str) -> dict[str, Any]:
    shared = ["cache", model, "--out", str(out), "-n", "3", "--max-new-tokens", "12"]
    shared += [
        "--block-length",
        "4",
        "--batch-size",
        "2",
        "--audit",
        "1",
        "--dtype",
        "float32",
        *words,
    ]
    CliRunner().invoke(app, shared, catch_exceptions=False)
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def values(results: dict[str, Any], name: str) -> dict[str, float]:
    return {m["group"]: m["value"] for m in results["metrics"] if m["name"] == name}


def test_with_one_layer_the_laws_are_those_without_a_cache(
    tiny_llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values of the only layer depend on their own token, and are never stale."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Once\nThe end of\n", encoding="utf-8")
    words = (
        "--prompts",
        str(prompts),
        "--policy",
        "dual",
        "--policy",
        "vicinity:left=1,right=0,warm_up=1",
    )
    first = run(tmp_path / "out", str(tiny_llada), *words)
    everyone = {"none, one text at a time", "dual", "vicinity:left=1,right=0,warm_up=1"}
    assert values(first, "equal texts") == dict.fromkeys(everyone, 100.0)
    assert values(first, "tokens that differ") == dict.fromkeys(everyone, 0.0)
    assert max(values(first, "KL, largest").values()) < 1e-9
    # Without the refresh the last tokens of the block before would still be masks.
    assert min(values(first, "KL before a refresh").values()) > 1e-8
    work = values(first, "work")
    assert work["dual"] < work["vicinity:left=1,right=0,warm_up=1"] < work["none"] == 12.0
    assert values(first, "NFE") == dict.fromkeys(work, 12.0)

    def never(*_: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(meter, "_batch", never)
    assert run(tmp_path / "out", str(tiny_llada), *words)["metrics"] == first["metrics"]


def record(setting: str, first: int, tokens: list[list[int]], **laws: list[Any]) -> dict[str, Any]:
    rows = len(tokens)
    return {
        "setting": setting, "first": first, "tokens": tokens, "nfe": [4] * rows,
        "work": [4.0] * rows, "laws": {name: laws.get(name, []) for name in meter.LISTS},
        "audits": len(laws), "nbytes": 2**20, "floor": 1e-7,
    }  # fmt: skip


def test_figures_by_hand() -> None:
    laws: dict[str, list[Any]] = {
        "kl": [0.0, 0.3, 0.7], "tv": [0.0, 0.2, 0.3], "top1": [False, True, False],
        "drawn": [True, True, False], "entropy": [0.1, 0.1, 0.1],
        "replaced": [False, False, True],
    }  # fmt: skip
    found = meter.collected(
        [
            record("dual", 2, [[1, 2, 3, 4]]),
            record("none", 0, [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]]),
            record("none, one text at a time", 0, [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]]),
            record("dual", 0, [[1, 2, 3, 9], [9, 9, 7, 8]], **laws),
        ]
    )
    assert found["dual"].tokens == [[1, 2, 3, 9], [9, 9, 7, 8], [1, 2, 3, 4]]
    figures = {(m.name, m.group): m for m in meter.figures(found)}
    differ = figures["tokens that differ", "dual"]
    assert differ.value == pytest.approx(25.0) and differ.n == 3
    assert differ.error == pytest.approx(25.0 / 3**0.5)
    assert figures["equal texts", "dual"].value == pytest.approx(100 / 3)
    assert figures["KL, mean", "dual"].value == pytest.approx(0.15)
    assert figures["KL, mean", "dual"].n == 2
    assert "1.0e-07" in figures["KL, mean", "dual"].note
    assert figures["first tokens that differ", "dual"].value == 50.0
    assert figures["drawn tokens that differ", "dual"].value == 100.0
    assert figures["KL before a refresh", "dual"].value == pytest.approx(0.7)
    assert figures["keys and values", "dual"].value == 1.0
    assert ("tokens that differ", "none") not in figures
    assert next(iter(figures))[1] == "none, one text at a time"
    head, *lines, upper, lower = table(list(figures.values()))
    assert head.split("%")[0].split() == ["differ"]
    assert max(map(len, (head, *lines, upper, lower))) <= 80
    assert upper.startswith("differ, equal: ") and lower.startswith("KL, drawn: ")
    (shown,) = (line for line in lines if line.startswith("dual"))
    assert shown.split()[1:3] == [f"{differ.value:.3g}", "33.3"]
    assert shown.endswith(f"{figures['KL, mean', 'dual'].value:>9.3g}{100:>9}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--policy", "duel"), "--policy='duel'.*Did you mean 'dual'"),
        (("--policy", "vicinity:lef=3"), "Policy 'vicinity' has no parameter 'lef'"),
        (("--policy", "vicinity:left"), "--policy left: write name=value"),
        (("--policy", "vicinity:left=x"), "--policy left=x: must be of type int"),
        (("--audit", "1.5"), "--audit 1.5: must be a share"),
        (("--set", "n=1"), "--set goes with --sampler"),
        (("--prompts", "none.txt"), "--prompts none.txt"),
    ],
)
def test_wrong_words_are_named(
    words: tuple[str, str], message: str, tiny_llada: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        run(tmp_path / "out", str(tiny_llada), *words)


def test_a_policy_that_does_not_fit_is_refused_before_the_first_pass(
    tiny_llada: Path, tmp_path: Path
) -> None:
    words = ("--policy", "dual", "--policy", "dkv", "--sampler", "remdm-cap")
    with pytest.raises(ValueError, match=r"dkv.*may write them again.*'none', 'prefix'"):
        run(tmp_path / "out", str(tiny_llada), *words)
    assert not (tmp_path / "out").exists()


def test_another_setting_is_no_resumption(
    tiny_llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as second:  # of two processes: two at once would spoil the journal
        second.setenv("DLM_SHARD", "1/2")
        with pytest.raises(FileNotFoundError):  # it leaves no results
            run(tmp_path / "out", str(tiny_llada), "--policy", "dual")
        assert not (tmp_path / "out").exists()
    run(tmp_path / "out", str(tiny_llada), "--policy", "dual")
    with pytest.raises(SettingsChanged, match="seed was 0 and is now 1"):
        run(tmp_path / "out", str(tiny_llada), "--policy", "dual", "--seed", "1")
    with pytest.raises(SettingsChanged, match="batch_size was 2 and is now 3"):
        run(tmp_path / "out", str(tiny_llada), "--policy", "dual", "--batch-size", "3")
