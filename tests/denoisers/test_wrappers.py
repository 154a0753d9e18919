"""One door into a network, be it wrapped, compiled, moved or pickled: its outermost module."""

import pickle
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.nn.parallel import DataParallel, DistributedDataParallel

from dlm_sampling import AutoDenoiser, elbo, generate, sample, wrap
from dlm_sampling.denoisers import Denoiser
from dlm_sampling.denoisers.families.loopholing import LoopholingDenoiser
from dlm_sampling.samplers import create

V, MASK = 40, 39
FIXTURES = Path(__file__).parents[1] / "fixtures" / "models"
NATIVE = [
    "bd3lm",
    "dream",
    "duo",
    "llada",
    "llada2_moe",
    "llada_moe",
    "mdlm",
    "sdar",
    "sedd_absorb",
]
Maker = Callable[..., Denoiser]


def loaded(name: str) -> Denoiser:
    return AutoDenoiser.from_pretrained(FIXTURES / name, **EXTRA.get(name, {}))


EXTRA: dict[str, dict[str, Any]] = {"llada2_moe": {"mask_token_id": 126}}


def network_of(denoiser: Denoiser) -> nn.Module:
    assert denoiser.module is not None
    return denoiser.module


def some_ids(rows: int = 2, length: int = 6) -> Tensor:
    return torch.randint(0, 30, (rows, length), generator=torch.Generator().manual_seed(1))


def logits(denoiser: Denoiser) -> Tensor:
    return denoiser.logits(some_ids(), t=torch.tensor([0.3, 0.8]).double())


class Adapter(nn.Module):
    """Built as an adapter library builds it: base_model.model, and any arguments."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = network
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        network: Any = self.base_model.model
        return network(*args, **kwargs)


@pytest.mark.parametrize("name", NATIVE)
def test_a_wrapper_is_called_and_changes_nothing(name: str) -> None:
    denoiser = loaded(name)
    before = logits(denoiser)
    denoiser.module = adapter = Adapter(network_of(denoiser))
    assert torch.equal(logits(denoiser), before)
    assert adapter.calls == 1


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", NATIVE)
def test_gradients_pass_through_the_exchange_of_data_parallelism(
    name: str, process_group: None
) -> None:
    """The exchange doubles every gradient here; a layer called past `forward` would miss it."""
    denoiser = loaded(name)
    logits(denoiser).logsumexp(-1).sum().backward()
    network = network_of(denoiser)
    alone = {key: weight.grad for key, weight in network.named_parameters()}
    network.zero_grad()
    unused = name in ("llada2_moe", "llada_moe")  # experts that no token chose
    denoiser.module = parallel = DistributedDataParallel(network, find_unused_parameters=unused)

    def doubled(state: None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        future: Any = torch.futures.Future()
        future.set_result(bucket.buffer() * 2)
        return future

    parallel.register_comm_hook(None, doubled)
    logits(denoiser).logsumexp(-1).sum().backward()
    for key, weight in network.named_parameters():
        if alone[key] is not None:
            torch.testing.assert_close(weight.grad, 2 * alone[key], msg=key)


def test_sampling_never_waits_for_other_ranks(process_group: None, llada: Maker) -> None:
    denoiser = llada()
    denoiser.module = parallel = DistributedDataParallel(network_of(denoiser))
    calls: list[Any] = []
    parallel.register_forward_pre_hook(lambda *given: calls.append(given))
    generate(denoiser, sampler="llada", max_new_tokens=4, steps=2, seed=0)
    assert not calls
    elbo(denoiser, some_ids(), editable=torch.ones(2, 6).bool(), seed=0, n=1)
    assert calls


@pytest.mark.parametrize("name", ["llada", "mdlm"])
def test_compiling_in_place_compiles(name: str) -> None:
    denoiser, graphs = loaded(name), list[Any]()
    before = logits(denoiser)

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    network_of(denoiser).compile(backend=backend)
    torch.testing.assert_close(logits(denoiser), before)
    assert graphs
    torch._dynamo.reset()


class Timed(nn.Module):
    """Reads the time, and only real columns: a forgotten argument shows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(V, V)
        nn.init.normal_(self.table.weight, generator=torch.Generator().manual_seed(0))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor:
        assert t is not None
        values = self.table(input_ids)
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mean = (values * real[..., None]).sum(1, keepdim=True) / real.sum(1)[:, None, None]
        return values + 3 * mean * t.float()[:, None, None]


class Plain(nn.Module):
    def __init__(self, network: nn.Module, beside: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = network
        if beside is not None:
            self.beside = beside

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.inner(*args, **kwargs)


FACTS: dict[str, Any] = {"vocab_size": V, "mask_token_id": MASK}
WRAPPINGS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "adapter": Adapter,
    "any arguments": Plain,
    "compiled": lambda network: torch.compile(network, backend="eager"),
    "data parallel": DataParallel,
    "two deep": lambda network: Plain(Adapter(network)),
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_wrapped_networks_get_time_and_mask(name: str) -> None:
    """Ragged rows, whose texts are those of the network by itself."""
    tokens = torch.full((2, 7), MASK)
    tokens[:, :3] = some_ids(2, 3)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, :2] = False
    given: dict[str, Any] = {"attention_mask": mask, "seeds": [3, 4]}
    outputs: list[Tensor] = []
    for network in (Timed(), WRAPPINGS[name](Timed())):
        denoiser = wrap(network, **FACTS)
        assert denoiser.time_conditioned
        assert denoiser.honours_padding
        outputs.append(
            sample(denoiser, create("ancestral"), tokens, tokens == MASK, steps=4, **given).tokens
        )
    assert torch.equal(*outputs)


def test_a_partial_takes_what_it_has_not_fixed() -> None:
    network = Timed()
    half = torch.full((1,), 0.5, dtype=torch.float64)
    free, fixed = wrap(partial(network), **FACTS), wrap(partial(network, t=half), **FACTS)
    assert free.time_conditioned
    assert free.honours_padding
    assert not fixed.time_conditioned
    assert fixed.honours_padding
    ids = some_ids(1, 5)
    assert torch.equal(free.logits(ids, t=half), fixed.logits(ids))


def reader(ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Tensor:
    return torch.zeros(*ids.shape, V)


def test_behind_an_unknown_wrapper_the_caller_says_what_it_takes() -> None:
    beside = Plain(Timed(), nn.Linear(2, 2))
    with pytest.warns(UserWarning, match="fn takes any keyword.*Say honours_padding="):
        assert not wrap(beside, **FACTS).time_conditioned
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = wrap(beside, time_conditioned=True, honours_padding=True, **FACTS)
        wrap(beside, time_conditioned=False, honours_padding=False, **FACTS)
        wrap(reader, **FACTS)
    t = torch.tensor([0.3, 0.8]).double()
    assert torch.equal(told.logits(some_ids(), t=t), Timed()(some_ids(), t=t))


@pytest.mark.parametrize("name", NATIVE)
def test_a_denoiser_can_be_pickled(name: str) -> None:
    denoiser = loaded(name)
    again = pickle.loads(pickle.dumps(denoiser))
    torch.testing.assert_close(logits(again), logits(denoiser), atol=1e-4, rtol=1e-4)
    assert type(again) is type(denoiser)


def test_pickling_embedded_loopholing_and_wrapped_denoisers(llada: Maker) -> None:
    for denoiser in (
        AutoDenoiser.from_pretrained("sudoku4x4-loopholing"),
        AutoDenoiser.from_pretrained("tiny-books"),
        LoopholingDenoiser(llada(), scale=0.5),
        wrap(Timed(), **FACTS),
    ):
        again = pickle.loads(pickle.dumps(denoiser))
        ids, t = torch.tensor([[1, 2, 3, 4]]), torch.tensor([0.5]).double()
        assert torch.equal(again.logits(ids, t=t), denoiser.logits(ids, t=t))
        assert (again.tokenizer is None) == (denoiser.tokenizer is None)


def test_a_network_moved_by_others_is_followed(llada: Maker) -> None:
    denoiser = llada()
    assert denoiser.to(dtype=torch.bfloat16) is denoiser
    assert denoiser.dtype == torch.bfloat16
    assert denoiser.to(torch.float16).dtype == torch.float16
    assert denoiser.to(dtype="float32").dtype is torch.float32
    assert denoiser.to(dtype="bfloat16").dtype is torch.bfloat16
    for wrong in (torch.int8, "int8", "float7"):
        with pytest.raises(ValueError, match=r"dtype=.*: must be 'auto' or one of float32"):
            denoiser.to(dtype=wrong)
    with pytest.raises(ValueError, match=r"dtype=torch\.int8: must be"):
        denoiser.to(torch.int8)
    with pytest.raises(ValueError, match="device='bfloat16': must be a device"):
        denoiser.to("bfloat16")
    model: Any = denoiser.module
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32, "rotary frequencies are rounded"
    network_of(denoiser).to("meta")
    assert denoiser.device.type == "meta"
    placed = wrap(Timed(), device="cpu", **FACTS)
    assert placed.to("meta").device.type == "meta"
    assert network_of(placed).table.weight.is_meta  # type: ignore[union-attr]


def test_the_users_model_stays_a_causal_model(llada: Maker) -> None:
    """The denoiser's view of it runs with full attention, and still is the stock model."""
    from transformers import LlamaForCausalLM

    denoiser: Any = llada()
    ids = some_ids()
    changed = ids.clone()
    changed[:, -1] = 31
    view = denoiser.module
    assert isinstance(view, LlamaForCausalLM)
    assert torch.equal(view(ids).logits[:, 0], view(changed).logits[:, 0]), "causal by itself"
    assert not torch.equal(denoiser.logits(ids)[:, 0], denoiser.logits(changed)[:, 0])
