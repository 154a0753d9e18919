"""The estimate of memory beside the peak that a run reaches, storage by storage."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from dlm_sampling import generate, wrap
from dlm_sampling.checkup.memory import expected_memory, in_units, weight_bytes
from dlm_sampling.denoisers import (
    Denoiser,
    LLaDADenoiser,
    LoopholingDenoiser,
    MaskedLMDenoiser,
    MDLMDenoiser,
    SEDDDenoiser,
)
from dlm_sampling.denoisers.networks.dit import Dit
from tests.denoisers.random_dit import random_dit

WIDTH, ROWS, LENGTH = 96, 4, 96
FACTOR = 1.6
NARROW, WIDE = 100, 3000  # activations prevail, or logits
VAST = 70_000  # a head makes the logits of fewer rows at a time than there are


class Peak(TorchDispatchMode):
    """Add up the bytes of the storages that operators make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most = 0, 0
        self.known: dict[int, int] = {}

    def forget(self, key: int) -> None:
        self.now -= self.known.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {tensor.untyped_storage()._cdata for tensor in tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in tensors(out):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in before or key in self.known:
                continue
            self.known[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self.forget, key)
            self.most = max(self.most, self.now)
        return out


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def sizes(vocab: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    }


def llada(vocab: int) -> Denoiser:
    config = LlamaConfig(**sizes(vocab), num_key_value_heads=4, tie_word_embeddings=False)
    return LLaDADenoiser(LlamaForCausalLM(config), mask_token_id=vocab - 1)


def bert(vocab: int) -> Denoiser:
    return MaskedLMDenoiser(BertForMaskedLM(BertConfig(**sizes(vocab))), mask_token_id=vocab - 1)


def dit(vocab: int) -> Dit:
    return random_dit(vocab_size=vocab, hidden_size=WIDTH, n_blocks=3, n_heads=4, cond_dim=16)


MAKERS: dict[str, Callable[[int], Denoiser]] = {
    "llada": llada,
    "masked lm": bert,
    "mdlm": lambda vocab: MDLMDenoiser(dit(vocab), max_length=128),
    "sedd": lambda vocab: SEDDDenoiser(dit(vocab), mask_token_id=vocab - 1, max_length=128),
    "loopholing": lambda vocab: LoopholingDenoiser(llada(vocab)),
}


@pytest.mark.parametrize("vocab", [NARROW, WIDE])
@pytest.mark.parametrize("name", MAKERS)
def test_the_peak_of_a_run_is_within_a_factor_of_the_estimate(name: str, vocab: int) -> None:
    denoiser = MAKERS[name](vocab)
    assert denoiser.module is not None
    memory = expected_memory(denoiser, ROWS, LENGTH)
    state = {id(tensor): tensor for tensor in denoiser.module.state_dict(keep_vars=True).values()}
    hidden = [b for b in denoiser.module.buffers() if id(b) not in state]  # not saved: rotary
    assert memory.weights == sum(t.nbytes for t in [*state.values(), *hidden])
    ids = torch.tensor([[5, vocab - 1]])
    assert denoiser.lazy_head == (
        denoiser(ids, t=torch.ones(1, dtype=torch.float64)).head is not None
    )
    run = partial(
        generate, denoiser, [[5 + row] for row in range(ROWS)], max_new_tokens=LENGTH - 1,
        steps=1, seed=0, eos="keep",
    )  # fmt: skip

    def measured() -> int:
        with Peak() as peak:
            run()
        return peak.most

    with ThreadPoolExecutor(1) as fresh:  # the scratch memory of draws stays with a thread
        most = fresh.submit(measured).result()
    assert 1 / FACTOR < most / (memory.total - memory.weights) < FACTOR


def test_a_lazy_head_never_holds_the_logits_of_all_tokens() -> None:
    denoiser, vocab = llada(VAST), VAST
    memory = expected_memory(denoiser, ROWS, LENGTH)
    with Peak() as peak:
        generate(denoiser, [[5]] * ROWS, max_new_tokens=LENGTH - 1, steps=1, seed=0, eos="keep")
    assert 1 / FACTOR < peak.most / (memory.total - memory.weights) < FACTOR
    assert peak.most < ROWS * LENGTH * vocab * 4 / 3


def test_a_plain_function_has_logits_only() -> None:
    denoiser = wrap(lambda ids: torch.zeros(*ids.shape, 50), vocab_size=50, mask_token_id=49)
    memory = expected_memory(denoiser, 3, 7)
    assert (memory.weights, memory.logits, memory.activations) == (0, 21 * 50 * (4 + 12), 0)
    assert str(memory) == (
        "about 16.8 kB for 3 x 7 tokens (weights 0.0 kB, and the larger of logits 16.8 kB and "
        "activations 0.0 kB)"
    )


def test_tied_weights_are_counted_once() -> None:
    table = nn.Embedding(10, 4)
    head = nn.Linear(4, 10, bias=False)
    head.weight = table.weight
    assert weight_bytes(nn.ModuleList([table, head])) == 10 * 4 * 4


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (1000, "1.0 kB"), (16.1e9, "16.1 GB"), (2e15, "2000.0 TB")]
)
def test_units(size: float, text: str) -> None:
    assert in_units(size) == text
