"""Tiny checkpoints with random weights, built by the test that needs them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from dlm_sampling.denoisers import Denoiser, DreamDenoiser, LLaDADenoiser, MDLMDenoiser
from tests.denoisers.random_dit import random_dit

V, MASK, END = 40, 39, 38
WORDS = ["once", "upon", "a", "time", "there", "was", "small", "fox", "and", "the", "big", "bear"]
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}

Maker = Callable[..., Denoiser]


def randomised(model: torch.nn.Module) -> Any:
    """Every parameter random and large enough that a wrong mask or position shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
            if "norm" in name:
                parameter.add_(1.0)
    return model


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    vocabulary |= {f"word{i}": i for i in range(len(WORDS), V - 2)}
    vocabulary |= {"[END]": END, "[MASK]": MASK}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="word37"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, mask_token="[MASK]", eos_token="[END]", pad_token="[END]"
    )


def tiny_llada(
    tie: bool = False, kv_heads: int = 4, used: int | None = None, **facts: Any
) -> Denoiser:
    config = LlamaConfig(**SIZES, num_key_value_heads=kv_heads, tie_word_embeddings=tie)
    model = randomised(LlamaForCausalLM(config))
    return LLaDADenoiser(model, mask_token_id=used - 1 if used else MASK, vocab_size=used, **facts)


def tiny_dream(tie: bool = False, kv_heads: int = 2, **facts: Any) -> Denoiser:
    config = Qwen2Config(**SIZES, num_key_value_heads=kv_heads, tie_word_embeddings=tie)
    return DreamDenoiser(randomised(Qwen2ForCausalLM(config)), mask_token_id=MASK, **facts)


def tiny_mdlm(time_conditioned: bool = False, **facts: Any) -> Denoiser:
    network = random_dit(vocab_size=V, hidden_size=32, n_blocks=2, n_heads=4, cond_dim=16)
    return MDLMDenoiser(network, max_length=64, time_conditioned=time_conditioned, **facts)


MAKERS: dict[str, Maker] = {"llada": tiny_llada, "dream": tiny_dream, "mdlm": tiny_mdlm}


@pytest.fixture(params=sorted(MAKERS))
def make(request: pytest.FixtureRequest) -> Maker:
    """A function that builds a tiny denoiser; one test run per native family."""
    return MAKERS[request.param]


@pytest.fixture
def llada() -> Maker:
    return tiny_llada


@pytest.fixture
def mdlm() -> Maker:
    return tiny_mdlm
