"""Masked language models of transformers, as they come."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from dlm_sampling.denoisers import AutoDenoiser, CheckpointError

V, MASK, END = 40, 39, 38
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 34,
    "pad_token_id": 1,
}
MODERN: dict[str, Any] = {
    "cls_token_id": 2,
    "sep_token_id": 3,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "local_attention": 6,
    "global_attn_every_n_layers": 2,
}
MODELS: dict[str, Any] = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)),
    "modernbert": lambda: ModernBertForMaskedLM(ModernBertConfig(**SIZES, **MODERN)),
}


def randomised(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
    return model.eval()


@pytest.fixture(params=sorted(MODELS))
def saved(request: pytest.FixtureRequest, tmp_path: Path, tokenizer: Any) -> tuple[Path, Any]:
    model = randomised(MODELS[request.param]())
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path, model


def some_ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(4, V, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_logits_are_the_models_own(saved: tuple[Path, Any]) -> None:
    folder, model = saved
    denoiser = AutoDenoiser.from_pretrained(folder)
    assert (denoiser.mask_token_id, denoiser.vocab_size, denoiser.eos_token_id) == (MASK, V, END)
    assert denoiser.family == "masked_lm"
    ids = some_ids(2, 9)
    torch.testing.assert_close(denoiser.logits(ids), model(input_ids=ids).logits)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_equals_the_row_alone(saved: tuple[Path, Any], side: str) -> None:
    denoiser = AutoDenoiser.from_pretrained(saved[0])
    assert denoiser.honours_padding
    row, pad = some_ids(1, 7), torch.ones(1, 5, dtype=torch.long)
    ids, mask = (torch.cat((pad, row), 1), torch.cat((0 * pad, torch.ones_like(row)), 1))
    place = slice(5, 12)
    if side == "right":
        ids, mask, place = ids.roll(-5, 1), mask.roll(-5, 1), slice(0, 7)
    alone = denoiser.logits(row)
    torch.testing.assert_close(denoiser.logits(ids, mask)[:, place], alone, atol=1e-5, rtol=1e-4)
    longest = some_ids(1, denoiser.max_length or 0)
    assert denoiser.logits(longest).isfinite().all()


@torch.no_grad()
def test_a_token_equal_to_the_padding_id_keeps_its_position(saved: tuple[Path, Any]) -> None:
    """RoBERTa's own position rule skips such tokens; on a canvas they are ordinary tokens."""
    denoiser, row = AutoDenoiser.from_pretrained(saved[0]), some_ids(1, 7)
    row[0, 2] = 1
    mask = torch.ones_like(row)
    torch.testing.assert_close(denoiser.logits(row, mask), denoiser.logits(row))


def test_a_model_without_its_head_is_refused(saved: tuple[Path, Any]) -> None:
    file = saved[0] / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    tensors.pop(next(name for name in tensors if "dense.weight" in name and "layer" not in name))
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="part of it would be random"):
        AutoDenoiser.from_pretrained(saved[0])


def test_an_encoder_is_no_denoiser(tmp_path: Path) -> None:
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no known denoiser"):
        AutoDenoiser.from_pretrained(tmp_path)


def test_without_a_tokenizer_the_mask_id_must_be_given(tmp_path: Path) -> None:
    MODELS["bert"]().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="Pass mask_token_id="):
        AutoDenoiser.from_pretrained(tmp_path)
    assert AutoDenoiser.from_pretrained(tmp_path, mask_token_id=7).mask_token_id == 7


@torch.no_grad()
def test_save_and_load(saved: tuple[Path, Any], tmp_path: Path) -> None:
    denoiser, ids = AutoDenoiser.from_pretrained(saved[0]), some_ids(1, 5)
    denoiser.save_pretrained(tmp_path / "again")
    again = AutoDenoiser.from_pretrained(tmp_path / "again")
    assert torch.equal(again.logits(ids), denoiser.logits(ids))
    assert again.mask_token_id == MASK


@torch.no_grad()
def test_a_folder_that_is_saved_to_again_holds_the_new_weights_only(
    saved: tuple[Path, Any],
) -> None:
    denoiser, ids = AutoDenoiser.from_pretrained(saved[0]), torch.arange(8)[None]
    for size in ("20kB", "5GB", "9kB", "5GB"):
        next(denoiser.model.parameters()).add_(0.3)
        denoiser.save_pretrained(saved[0], max_shard_size=size)
        assert torch.equal(AutoDenoiser.from_pretrained(saved[0]).logits(ids), denoiser.logits(ids))
    assert [p.name for p in saved[0].glob("*.safetensors*")] == ["model.safetensors"]
