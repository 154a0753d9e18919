"""Finish a 4 x 4 sudoku with a model of transformers, by its own `generate` and a sampler of ours.

    python examples/transformers_generate.py "1 2 3 4 3 4 1 2"

With --export FOLDER the sampler is also written down for `custom_generate=FOLDER`, for people who
never import this package themselves.
"""

from pathlib import Path
from typing import Annotated

import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

from dlm_sampling import diffusion_generate, save_custom_generate
from dlm_sampling.embedded import embedded_path

CELLS = 16


def main(
    rows: Annotated[str, typer.Argument(help="Cells from the first one on.")] = "1 2 3 4 3 4 1 2",
    sampler: str = "klass",
    export: Annotated[Path | None, typer.Option(help="Folder for custom_generate=.")] = None,
    seed: int = 0,
) -> None:
    """Print the grid."""
    folder = embedded_path("sudoku4x4")
    model = AutoModelForCausalLM.from_pretrained(folder)  # a BERT, which is bidirectional
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"sampler": sampler, "mask_token_id": tokenizer.mask_token_id, "seed": seed}
    given = tokenizer(rows, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = model.generate(
        given,
        custom_generate=diffusion_generate,
        max_new_tokens=CELLS - given.shape[1],
        **options,
    )
    print(tokenizer.decode(ids[0]))
    if export is not None:
        print(save_custom_generate(export, **options))


if __name__ == "__main__":
    typer.run(main)
