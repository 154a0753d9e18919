"""The README: its commands, its code, its table.  Run as a script, this file rewrites the table."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dlm_sampling import samplers
from dlm_sampling.cli import app as cli

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"(<!-- samplers: [^\n]*-->\n)(.*?)(<!-- /samplers -->)", re.DOTALL)
PROOF = re.compile(r"(<!-- proof: [^\n]*-->\n)(.*?)(<!-- /proof -->)", re.DOTALL)
LIMIT = 250
RESULTS = ROOT / "eval" / "results"


def text() -> str:
    return README.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(text()) if kind == language]


def table() -> str:
    """The sampler table, from the registry."""
    lines = ["| name | what a step does | noise | exact | NFE | paper |", "| --- " * 6 + "|"]
    for entry in samplers.available().values():
        sampler = entry.build()
        file = "/".join(type(sampler).__module__.split(".")) + ".py"
        exact = "yes" if sampler.exact else "no"
        noise = ", ".join(entry.noise)
        paper = re.sub(r"^(.*), arXiv:(\S+)$", r"[\1](https://arxiv.org/abs/\2)", entry.paper)
        cells = (f"[{entry.name}]({file})", entry.summary, noise, exact, entry.nfe, paper)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def result(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def proof() -> str:
    """The table of measured claims, from the result files and the fixtures."""
    bench = result("bench_categorical_cpu.json")
    bounds = {"tiny-books": "tiny_books.json", "tiny-books-uniform": "tiny_books_uniform.json"}
    others = result("draw_processors.json")["processors"]
    by_name = {row["method"]: row for row in bench["methods"]}
    ours, llada = by_name["dlm_sampling"], by_name["LLaDA (float64 Gumbel)"]
    fused = by_name["dlm_sampling, fused"]
    ratio = llada["cpu_milliseconds"] / ours["cpu_milliseconds"]
    ratios = sorted([ratio, *(other["ratio"] for other in others)])
    names = ", ".join([bench["cpu"], *(other["cpu"] for other in others)])
    cases = [
        len(json.loads(file.read_text(encoding="utf-8"))["cases"])
        for file in (ROOT / "tests" / "fixtures" / "samplers" / "cases").glob("*.json")
    ]
    lines = ["| what | figure | how |", "| --- | --- | --- |"]
    lines.append(
        f"| one draw per row with confidence, margin and entropy, {bench['rows']} x "
        f"{bench['vocab']} {bench['dtype']} logits, one thread | "
        f"{ratios[0]:.0f} to {ratios[-1]:.0f} times faster than the arithmetic of LLaDA's "
        f"`generate` by processor ({names}); here {ours['cpu_milliseconds']:.0f}, with "
        f"`DLM_FUSED_CPU=on` {fused['cpu_milliseconds']:.0f}, against "
        f"{llada['cpu_milliseconds']:.0f} ms of processor time, {ours['peak_megabytes']:.0f} "
        f"against {llada['peak_megabytes']:.0f} MB of extra memory | `dlm-sampling bench --fused`, "
        "`eval/results/bench_categorical_cpu.json` |"
    )
    lines.append(
        f"| released samplers, canvas by canvas and NFE | {sum(cases)} trajectories of "
        f"{len(cases)} samplers, token for token | `pytest tests/test_parity_samplers.py` |"
    )
    lines.append(
        "| exact laws of all that is built | within 1e-9 | `pytest tests/test_parity_laws.py` |"
    )
    orders = result("orders.json")["experiments"]
    slopes = {
        experiment["name"]: {
            record["method"]: (record.get("slope_tv"), record.get("last_slope_tv"))
            for record in experiment["records"]
        }
        for experiment in orders
    }
    mild, strong = slopes["pair-mild"], slopes["pair"]
    lines.append(
        "| order of convergence, two tokens under uniform noise, by exact propagation | "
        f"theta-trapezoidal {mild['theta-trapezoidal'][0]:.2f}, tau-leaping "
        f"{mild['tau-leaping'][0]:.2f}, Euler {mild['euler'][0]:.2f} where nothing is clamped; "
        f"theta-trapezoidal {strong['theta-trapezoidal'][1]:.2f} where rates are | "
        "`dlm-sampling eval compare --preset orders`, [eval/ORDERS.md](eval/ORDERS.md) |"
    )
    grids = result("loopholing.json")["summary"]
    plain, looped = grids["base, equal compute"], grids["loopholing, p = 0.5"]

    def against(task: str) -> str:
        pairs = (looped[task], plain[task])
        return " against ".join(f"{mean:.3f} ± {error:.3f}" for mean, error in pairs)

    lines.append(
        "| a carried state (loopholing) against plain training at equal compute, valid 4x4 sudoku "
        f"grids, 5 seeds | one random cell at a time {against('5 clues, random, 16 steps')} with 5 "
        f"clues and {against('0 clues, random, 16 steps')} from empty; worse from empty in 4 "
        f"steps, {against('0 clues, random, 4 steps')} | "
        "`python examples/train_loopholing.py compare` |"
    )
    runs = result("rl_sudoku.json")["runs"]
    shares = ", ".join(f"{run['before']:.2f} to {run['after']:.2f}" for run in runs)
    lines.append(
        "| GRPO with a divergence to the start: valid 4x4 sudoku grids on puzzles of another seed, "
        f"4 steps, {len(runs)} seeds | {shares} after {len(runs[0]['curve'])} updates | "
        "`python examples/rl_sudoku.py`, [curves](eval/results/rl_sudoku.svg) |"
    )
    found = {model: result(file)["held_out"] for model, file in bounds.items()}
    names = list(found["tiny-books"])
    models = "; ".join(
        f"`{model}` at most "
        + ", ".join(
            f"{books[name]['bits_per_char']:.3f} ± {books[name]['standard_error']:.3f}"
            for name in names
        )
        for model, books in found.items()
    )
    lines.append(
        f"| bits per character of *{'*, *'.join(names)}*, which no model saw | {models} | "
        "`python -m dlm_eval.judges.bound` |"
    )
    return "\n".join(lines) + "\n"


def test_opening_and_length() -> None:
    lines = text().splitlines()
    assert lines[0] == "# dlm_sampling"
    assert lines[2] == "Samplers for diffusion language models: exact, batched, importable."
    assert len(lines) <= LIMIT
    first, second = BLOCK.findall(text())[:2]
    assert (first[0], second[0]) == ("bash", "bash")
    assert lines.index("```bash") < 10
    assert first[1].endswith('dlm-sampling generate "The Scarecrow looked at Dorothy and said,"\n')
    assert second[1].endswith("pytest\n")


def test_ci_runs_the_second_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    program = re.search(r"tests=\$\((awk .*?)\)$", script, re.MULTILINE)
    assert program
    done = subprocess.run(
        ["bash", "-c", program[1]], cwd=ROOT, capture_output=True, text=True, check=True,
        timeout=250,
    )  # fmt: skip
    assert done.stdout == blocks("bash")[1]


def test_table_is_what_the_registry_says() -> None:
    found = TABLE.search(text())
    assert found
    assert found[2] == table(), "run: python tests/test_readme.py"


def test_proof_is_what_the_result_files_say() -> None:
    found = PROOF.search(text())
    assert found
    assert found[2] == proof(), "run: python tests/test_readme.py"


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[-1])
def test_code_runs(code: str, tiny_llada: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tiny checkpoint in place of the named ones, but for JSON, which it cannot write."""
    from dlm_sampling import AutoDenoiser

    load = AutoDenoiser.from_pretrained

    def load_tiny(name: Any, **options: Any) -> Any:
        return load(name if "json_schema" in code else tiny_llada, **options)

    monkeypatch.setattr(AutoDenoiser, "from_pretrained", staticmethod(load_tiny))
    exec(compile(code, str(README), "exec", dont_inherit=True), {"__name__": "readme"})


COMMANDS = [line for body in blocks("bash")[2:] for line in body.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_runs(
    line: str, tiny_llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *words = shlex.split(line)
    assert program == "dlm-sampling"
    (tmp_path / "prompts.txt").write_text("Once\nTwice\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "check_model", lambda name: str(tiny_llada))
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0


def test_links_point_at_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text()):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def test_named_files_exist() -> None:
    for name in re.findall(r"`((?:dlm_sampling|tests|eval|kernels|examples)/[\w./]+)`", text()):
        assert (ROOT / name).exists(), name


if __name__ == "__main__":
    page = TABLE.sub(lambda m: m[1] + table() + m[3], text())
    page = PROOF.sub(lambda m: m[1] + proof() + m[3], page)
    README.write_text(page, encoding="utf-8")
