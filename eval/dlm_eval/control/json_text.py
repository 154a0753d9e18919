"""Count the texts of the embedded model that are JSON of a schema, with and without a constraint.

The judge is Python's own reader of JSON, which knows nothing of automata.  The model has read
novels, so without the constraint none of its texts is JSON.

Run: python -m dlm_eval.control.json_text
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from dlm_eval.program import check_result, command_of, start
from dlm_sampling import AutoDenoiser, generate
from dlm_sampling.constraints import Constraint
from dlm_sampling.denoisers import Denoiser

PROMPT = "The sailor told us his name and his age: "
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 16},
        "age": {"type": "integer"},
    },
    "required": ["name", "age"],
}
TOKENS = 24


def valid(text: str) -> bool:
    """Whether a text is JSON of the schema."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    if not isinstance(value, dict) or value.keys() != {"name", "age"}:
        return False
    record = cast("dict[str, Any]", value)
    name, age = record["name"], record["age"]
    return isinstance(name, str) and 2 <= len(name) <= 16 and type(age) is int


def measure(denoiser: Denoiser, texts: int, steps: int, *, constrained: bool) -> dict[str, Any]:
    """Return what some texts of a number of steps are."""
    begun = time.perf_counter()
    out = generate(
        denoiser,
        PROMPT,
        sampler="llada-entropy",
        temperature=1.0,
        max_new_tokens=TOKENS,
        steps=steps,
        num_return_sequences=texts,
        constraint=Constraint(json_schema=SCHEMA) if constrained else None,
        seed=0,
    )
    seconds = time.perf_counter() - begun
    written = cast("list[str]", out.texts)
    total = sum(float(sum(row)) for row in out.logprobs)
    return {
        "constrained": constrained,
        "steps": steps,
        "nfe": round(float(out.nfe.double().mean()), 2),
        "texts": texts,
        "valid": sum(map(valid, written)),
        "different": len(set(written)),
        "nats_per_text": round(-total / texts, 3),
        "seconds_per_text": round(seconds / texts, 4),
        "first": written[0],
    }


def main(
    out: Annotated[Path, typer.Option(help="Result file (JSON).")] = Path(
        "eval/results/json_text.json"
    ),
    texts: Annotated[int, typer.Option(min=1, help="Texts of each setting.")] = 64,
) -> None:
    """Measure texts of 4 to 24 steps, and write the result file."""
    check_result(out)
    denoiser = AutoDenoiser.from_pretrained("tiny-books")
    records = [
        measure(denoiser, texts, steps, constrained=constrained)
        for steps in (4, 12, 24)
        for constrained in (False, True)
    ]
    settings = {"model": "tiny-books", "prompt": PROMPT, "schema": SCHEMA, "tokens": TOKENS}
    result = {"command": command_of("dlm_eval.control.json_text"), **settings, "records": records}
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    typer.echo(f"Wrote {out}")


if __name__ == "__main__":
    start(main)
