"""Plants faults in the library and writes those that its tests do not notice to a result file.

    python -m dlm_eval.robustness.mutants            # a few mutants of every file
    python -m dlm_eval.robustness.mutants --all      # every mutant, many hours
    python -m dlm_eval.robustness.mutants dlm_sampling/ops/philox.py --count 50

Run it in the root of the repository.  The mutants of a file are a fixed sample, which stays when
other lines of the file change.  A run that was stopped goes on at the next file; a file whose
source or tests have changed since is tried again.

Why not a released tool: mutmut 3.8 leaves decorated functions alone (every property and every
operator under `torch.no_grad`), and cosmic-ray 8.7 starts a process for each mutant, which spends
its time on the import of torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from dlm_eval.program import check_result, start
from dlm_eval.robustness.mutants.equivalent import EQUIVALENT
from dlm_eval.robustness.mutants.operators import Mutant, mutants
from dlm_eval.robustness.mutants.selection import Selection, selection, sources
from dlm_eval.robustness.mutants.trial import try_mutants

GONE = ("killed", "timeout")
SHARED = ("torch", "dlm_sampling.samplers", "dlm_sampling.testing")
"""Modules that are imported once, before the forks."""


def digest(text: str) -> str:
    """Return 16 hexadecimal digits that name a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sample(found: list[Mutant], count: int | None, seed: int) -> list[Mutant]:
    """Choose mutants by the hash of their names, so that a choice survives changes elsewhere."""
    chosen = sorted(found, key=lambda mutant: digest(f"{seed} {mutant.name}"))[:count]
    return sorted(chosen, key=lambda mutant: (mutant.line, mutant.name))


def tried(root: Path, source: Path, chosen: list[Mutant], tests: Selection) -> dict[str, Any]:
    """Judge the mutants of a file in a process of its own, and return its entry of the result."""
    module = ".".join(source.with_suffix("").parts).removesuffix(".__init__")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        try:
            done = try_mutants(root / source, module, chosen, tests.arguments, tests.takes)
            said = {"tests": done.tests, "seconds": done.seconds, "verdicts": done.verdicts}
        except Exception as error:
            said = {"error": str(error).replace(f"{root}/", "")}
        with os.fdopen(writing, "w") as out:
            json.dump(said, out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    said = json.loads(text) if text else {"error": f"{source}: the process of the tests died"}
    if "error" in said:
        return said
    verdicts: list[str] = said.pop("verdicts")
    return said | {
        "mutants": sum(v != "invalid" for v in verdicts),
        "killed": sum(v in GONE for v in verdicts),
        "timeouts": verdicts.count("timeout"),
        "survived": [
            {"line": m.line, "mutant": m.name}
            for m, v in zip(chosen, verdicts, strict=True)
            if v == "survived"
        ],
    }


def summary(files: dict[str, Any]) -> dict[str, Any]:
    """Add the reasons of equivalent survivors to the entries, and count."""
    known = {(path, name): why for path, part in EQUIVALENT.items() for name, why in part.items()}
    for path, part in files.items():
        for survivor in part.get("survived", ()):
            survivor.pop("equivalent", None)
            if (path, survivor["mutant"]) in known:
                survivor["equivalent"] = known[path, survivor["mutant"]]
    whole = [part for part in files.values() if "error" not in part]
    made, killed = (sum(part[key] for part in whole) for key in ("mutants", "killed"))
    survivors = [s for part in whole for s in part["survived"]]
    equivalent = sum("equivalent" in s for s in survivors)
    return {
        "files_tried": len(whole),
        "mutants": made,
        "killed": killed,
        "equivalent": equivalent,
        "survived": len(survivors) - equivalent,
        "killed_of_those_that_change_behaviour": round(killed / max(made - equivalent, 1), 4),
    }


def write(out: Path, command: str, total: int, files: dict[str, Any]) -> dict[str, Any]:
    """Write the result file whole, and return its counts."""
    totals = summary(files)
    partial = out.with_suffix(".partial")
    result = {
        "command": command,
        "files_in_all": total,
        **totals,
        "files": dict(sorted(files.items())),
    }
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, out)
    return totals


def main(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Source files to try again; all where none.")
    ] = None,
    count: Annotated[int, typer.Option(help="Mutants of a file.")] = 3,
    everything: Annotated[bool, typer.Option("--all", help="Try every mutant.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    out: Annotated[Path, typer.Option(help="Result file (JSON).")] = Path(
        "eval/results/mutants.json"
    ),
) -> None:
    """Try mutants and write the result file; exit with 1 if one survived without a reason."""
    check_result(out)
    for module in SHARED:
        import_module(module)
    root = Path.cwd()
    often = "--all" if everything else f"--count {count}"
    command = f"python -m dlm_eval.robustness.mutants {often} --seed {seed}"
    files: dict[str, Any] = json.loads(out.read_text())["files"] if out.exists() else {}
    total = len(sources(root))
    for source in tqdm(paths or sources(root), unit="file", disable=None):
        text = (root / source).read_text(encoding="utf-8")
        found = mutants(text)
        tests = selection(root, source)
        own = [root / file for file in tests.files if (root / file).is_file()]
        contents = [text, *(file.read_text(encoding="utf-8") for file in own), often, str(seed)]
        state, before = digest("".join(contents)), files.get(str(source), {})
        if not paths and before.get("state") == state and "error" not in before:
            continue
        chosen = sample(found, None if everything else count, seed)
        if chosen:
            entry = tried(root, source, chosen, tests)
            files[str(source)] = {"state": state, "possible": len(found), **entry}
            write(out, command, total, files)
    totals = write(out, command, total, files)
    for path, part in files.items():
        for line in [part["error"]] if "error" in part else []:
            typer.echo(line)
        for survivor in part.get("survived", ()):
            if "equivalent" not in survivor:
                typer.echo(f"{path}:{survivor['line']}: {survivor['mutant']}")
    typer.echo(json.dumps(totals))
    sys.exit(1 if totals["survived"] or any("error" in part for part in files.values()) else 0)


if __name__ == "__main__":
    start(main)
