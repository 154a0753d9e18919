"""Checkpoints that were quantised before they were stored are refused by the method's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from dlm_sampling import AutoDenoiser, Denoiser
from dlm_sampling.denoisers import CheckpointError
from dlm_sampling.denoisers import quantised_files as under_test

Maker = Callable[..., Denoiser]


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        AutoDenoiser.from_pretrained(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


METHODS = ("awq", "bitsandbytes", "compressed-tensors", "fp8", "gptq", "mxfp4", "torchao")


@pytest.mark.parametrize("method", METHODS)
def test_the_method_is_named(make: Maker, tmp_path: Path, method: str) -> None:
    make().save_pretrained(tmp_path)
    configure(tmp_path, quantization_config={"quant_method": method, "bits": 4})
    message = refusal(tmp_path)
    assert f"is quantised with {method}, which is not read here" in message
    assert "with quantize=" in message


@pytest.mark.parametrize(
    ("section", "method"),
    [
        ({"quantization_config": "gptq"}, "gptq"),
        ({"quantization_config": {"bits": 4}}, "an unnamed method"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ],
)
def test_older_forms(llada: Maker, tmp_path: Path, section: dict[str, Any], method: str) -> None:
    llada().save_pretrained(tmp_path)
    configure(tmp_path, **section)
    assert f"is quantised with {method}," in refusal(tmp_path)
    configure(tmp_path, **dict.fromkeys(section))
    AutoDenoiser.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "method"),
    [
        ("quantize_config.json", {"bits": 4}, "gptq"),
        ("quantize_config.json", {"quant_method": "awq"}, "awq"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}, "modelopt"),
    ],
)
def test_files_beside_the_config(
    llada: Maker, tmp_path: Path, name: str, content: dict[str, Any], method: str
) -> None:
    llada().save_pretrained(tmp_path)
    (tmp_path / name).write_text(json.dumps(content))
    assert f"is quantised with {method}," in refusal(tmp_path)


def save_bert(folder: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    BertForMaskedLM(BertConfig(vocab_size=20, num_attention_heads=2, **sizes)).save_pretrained(
        folder
    )


@pytest.mark.parametrize("method", [*under_test.READABLE, "gptq"])
def test_models_of_transformers_need_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    save_bert(tmp_path)
    configure(tmp_path, quantization_config={"quant_method": method})
    monkeypatch.setattr(under_test, "find_spec", lambda name: None)
    message = refusal(tmp_path, mask_token_id=3)
    assert f"is quantised with {method}" in message
    assert (f"pip install {method}" in message) == (method in under_test.READABLE)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_packed_weights_without_a_word_are_refused(
    make: Maker, tmp_path: Path, kind: torch.dtype
) -> None:
    make().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name, value in tensors.items() if value.ndim == 2)
    tensors[name] = tensors[name].to(kind)
    save_file(tensors, tmp_path / "model.safetensors")
    message = refusal(tmp_path)
    assert f"{name} is stored as {str(kind).removeprefix('torch.')}" in message


def test_packed_weights_of_a_model_of_transformers(tmp_path: Path) -> None:
    save_bert(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert f"{name} is stored as I8" in refusal(tmp_path, mask_token_id=3)
