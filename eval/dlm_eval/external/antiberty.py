"""Converts AntiBERTy, a BERT of 26 million parameters for antibody sequences, to safetensors.

    pip install --no-deps antiberty==0.1.3
    python -m dlm_eval.external.antiberty FOLDER

Then `AutoDenoiser.from_pretrained(FOLDER)` is a masked model that was trained on real data: one
token per residue, `[MASK]` where a residue is to be written.  Ruffolo, Gray & Sulam 2021,
arXiv:2112.07782; MIT licence.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from dlm_eval.external.packages import check_target, find_package, write_once
from dlm_eval.program import start

INSTALL = "antiberty==0.1.3"
OTHER_HEADS = ("cls.species.", "cls.chain.", "cls.graft.", "bert.pooler.")
"""Classifiers of the whole sequence, which a masked language model lacks."""


def prepare(folder: str | Path) -> Path:
    """Write the checkpoint: config.json, model.safetensors and a tokenizer of single residues.

    Args:
        folder: where to write; a folder that exists is taken as finished.

    Returns:
        The folder, for `AutoDenoiser.from_pretrained`.

    Raises:
        PackageMissing: antiberty is not there; the message says how to install it.
    """
    models = find_package("antiberty", INSTALL) / "trained_models"
    return write_once(Path(folder), lambda place: convert(models, place))


def convert(models: Path, place: Path) -> None:
    """Write the checkpoint from the files of the package."""
    import torch

    save: Any = import_module("safetensors.torch")
    source = models / "AntiBERTy_md_smooth"
    # weights_only reads tensors and runs no code of the pickle; clone parts shared memory
    state = torch.load(source / "pytorch_model.bin", map_location="cpu", weights_only=True)
    kept = {key: value.clone() for key, value in state.items() if not key.startswith(OTHER_HEADS)}
    save.save_file(kept, place / "model.safetensors", metadata={"format": "pt"})
    (place / "model.safetensors").chmod(0o644)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    del config["_name_or_path"]
    config["architectures"] = ["BertForMaskedLM"]
    text = json.dumps(config, indent=1, sort_keys=True)
    (place / "config.json").write_text(text + "\n", encoding="utf-8")
    vocabulary = (models / "vocab.txt").read_text(encoding="utf-8").split()
    residue_tokenizer(vocabulary).save_pretrained(place)


def residue_tokenizer(vocabulary: list[str]) -> Any:
    """Build a tokenizer that reads and writes residues without spaces: "EVQ[MASK]V"."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def main(folder: Annotated[Path, typer.Argument(help="Where to write the checkpoint.")]) -> None:
    """Convert AntiBERTy once."""
    check_target(folder)
    typer.echo(prepare(folder))


if __name__ == "__main__":
    start(main)
