"""Whatever mode a trainer left, sampling and scoring have no dropout, and checkpointing works."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from dlm_sampling import elbo, generate, replay, wrap
from dlm_sampling.denoisers import Denoiser, LLaDADenoiser, MaskedLMDenoiser, MDLMDenoiser
from tests.denoisers.conftest import randomised
from tests.denoisers.random_dit import random_dit

V, MASK = 40, 39
SIZES: dict[str, Any] = {
    **{"vocab_size": V, "hidden_size": 16, "intermediate_size": 96, "num_hidden_layers": 8},
    **{"num_attention_heads": 4, "max_position_embeddings": 64},
}


def bert() -> Denoiser:
    config = BertConfig(**SIZES, hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.4)
    return MaskedLMDenoiser(randomised(BertForMaskedLM(config)), mask_token_id=MASK)


def llada() -> Denoiser:
    config = LlamaConfig(**SIZES, attention_dropout=0.4)
    return LLaDADenoiser(randomised(LlamaForCausalLM(config)), mask_token_id=MASK)


def mdlm() -> Denoiser:
    return MDLMDenoiser(random_dit(vocab_size=V, hidden_size=16, n_blocks=8, n_heads=2, cond_dim=8))


MAKERS: dict[str, Callable[[], Denoiser]] = {"bert": bert, "llada": llada, "mdlm": mdlm}


def modes(denoiser: Denoiser) -> list[bool]:
    assert denoiser.module is not None
    return [part.training for part in denoiser.module.modules()]


class Noisy(nn.Module):
    """A network whose dropout changes most tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table, self.out = nn.Embedding(V, 32), nn.Linear(32, V)

    def forward(self, input_ids: Tensor, scale: float = 1.0) -> Tensor:
        around = self.table(input_ids).mean(1, keepdim=True) + self.table(input_ids)
        return scale * 4.0 * self.out(nn.functional.dropout(around, 0.5, self.training))

    def scored(self, input_ids: Tensor) -> Tensor:
        return self.forward(input_ids)


FUNCTIONS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda net: net,
    "forward": lambda net: net.forward,
    "call": lambda net: net.__call__,
    "partial": lambda net: partial(net, scale=1.0),
    "partial of forward": lambda net: partial(partial(net.forward), scale=1.0),
    "another method": lambda net: net.scored,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_network_behind_a_function_samples_without_dropout(name: str) -> None:
    net = Noisy()
    denoiser = wrap(FUNCTIONS[name](net), vocab_size=V, mask_token_id=MASK)
    given: dict[str, Any] = {"max_new_tokens": 8, "seed": 5, "sampler": "ancestral"}
    plain = generate(wrap(Noisy(), vocab_size=V, mask_token_id=MASK), **given).tokens
    net.train()
    for _ in range(2):
        assert torch.equal(generate(denoiser, **given).tokens, plain)
    assert net.training
    assert denoiser.module is net


@pytest.mark.parametrize("name", MAKERS)
def test_training_mode_changes_nothing_and_is_given_back(name: str) -> None:
    denoiser = MAKERS[name]()
    network: Any = denoiser.module
    given: dict[str, Any] = {"max_new_tokens": 6, "steps": 3, "seed": 5, "sampler": "ancestral"}
    wanted = generate(denoiser, **given, return_trajectory=True)
    scores = replay(denoiser, wanted.trajectory).logprob.detach()
    network.train()
    next(iter(network.children())).eval()  # a trainer's choice of parts is kept as well
    before = modes(denoiser)
    state = torch.get_rng_state()
    found = generate(denoiser, **given)
    assert torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(replay(denoiser, wanted.trajectory).logprob.detach(), scores)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert modes(denoiser) == before
    assert True in before


def kept(denoiser: Denoiser, train: bool) -> tuple[float, int, list[Tensor | None]]:
    """The bound, the numbers kept for backward, and the gradients."""
    network: Any = denoiser.module
    network.train(train)
    network.zero_grad()
    sizes: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        if not isinstance(saved, nn.Parameter):
            sizes[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes() // 4
        return saved

    ids = torch.randint(0, V - 1, (4, 48), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        bound = elbo(denoiser, ids, editable=ids >= 0, seed=0, n=1, grad=True).value.mean()
    bound.backward()
    return float(bound), sum(sizes.values()), [weight.grad for weight in network.parameters()]


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", MAKERS)
def test_checkpointing_saves_memory_without_dropout(name: str, train: bool) -> None:
    """As `replay` advises; the gradients are those without it."""
    denoiser = MAKERS[name]()
    network: Any = denoiser.module
    value, many, gradients = kept(denoiser, train)
    network.gradient_checkpointing_enable()
    again, few, same = kept(denoiser, train)
    print(f"{name}: {many} numbers kept, {few} with checkpointing")
    assert few < many / 10
    assert again == pytest.approx(value, abs=1e-5)
    for one, other in zip(gradients, same, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    network.gradient_checkpointing_disable()
    assert kept(denoiser, train)[1] == many


def test_dropout_inside_an_output_head_is_off_too() -> None:
    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(V, 8)
            self.head = nn.Sequential(nn.Dropout(0.9), nn.Linear(8, V))

        def forward(self, input_ids: Tensor) -> Any:
            from dlm_sampling.types import DenoiserOutput

            return DenoiserOutput(self.table(input_ids), self.head)

    network = Headed()
    denoiser = wrap(network, vocab_size=V, mask_token_id=MASK)
    network.train()
    texts = {
        tuple(generate(denoiser, max_new_tokens=5, steps=5, seed=1, sampler="ancestral").tokens[0])
        for _ in range(3)
    }
    assert len({tuple(map(int, text)) for text in texts}) == 1
