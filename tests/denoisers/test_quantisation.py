"""Quantised networks: laws near the original's, a head that stays or is read right, errors."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dlm_sampling import AutoDenoiser, Denoiser, generate
from dlm_sampling.checkup.memory import weight_bytes
from dlm_sampling.denoisers import CheckpointError
from dlm_sampling.denoisers import quantisation as under_test
from dlm_sampling.denoisers.quantisation import METHODS, plain_parts, quantise
from dlm_sampling.text.fingerprint import weights_digest
from dlm_sampling.types import DenoiserOutput, Pass

pytest.importorskip("torchao", reason="needs: pip install 'dlm-sampling[quantize]'")

Maker = Callable[..., Denoiser]
IDS = torch.randint(0, 38, (4, 12), generator=torch.Generator().manual_seed(0))
FARTHEST = {"int8": 0.03, "int8-dynamic": 0.06, "int4": 0.35}  # total variation, at most
BY_BITSANDBYTES = {"llm-int8": 0.05, "nf4": 0.5}
NO_BITSANDBYTES = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs: pip install 'dlm-sampling[quantize]'"
)
METHOD = pytest.mark.parametrize(
    "method", [*FARTHEST, *(pytest.param(m, marks=NO_BITSANDBYTES) for m in BY_BITSANDBYTES)]
)


def law(denoiser: Denoiser) -> torch.Tensor:
    return denoiser.logits(IDS).double().softmax(-1)


@pytest.fixture
def folder(make: Maker, tmp_path: Path) -> Path:
    make().save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
@METHOD
def test_token_laws_are_near_those_of_the_network(folder: Path, method: str) -> None:
    plain = AutoDenoiser.from_pretrained(folder)
    found = AutoDenoiser.from_pretrained(folder, quantize=method)
    assert found.quantized == method
    away = (law(found) - law(plain)).abs().sum(-1) / 2
    assert 0 < float(away.mean()) < {**FARTHEST, **BY_BITSANDBYTES}[method]
    assert found.module is not None
    layers = [part for part in found.module.modules() if isinstance(part, nn.Linear)]
    heads = [part for part in layers if part.out_features == found.vocab_size]
    assert heads
    assert all(type(head.weight) is nn.Parameter for head in heads), "the head stays"
    changed = [part for part in layers if type(part.weight) is not nn.Parameter]
    assert len(changed) >= len(layers) / 2


@torch.no_grad()
@METHOD
def test_a_quantised_network_can_be_pickled(llada: Maker, method: str) -> None:
    denoiser = llada()
    quantise(denoiser, method)
    again = pickle.loads(pickle.dumps(denoiser))
    assert again.quantized == method
    assert torch.equal(law(again), law(denoiser))


def head_of(denoiser: Denoiser) -> str:
    assert denoiser.module is not None
    return next(
        name
        for name, part in denoiser.module.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == denoiser.vocab_size
    )


@torch.no_grad()
@METHOD
@pytest.mark.parametrize("sampler", ["llada", "ancestral", "klass"])
def test_a_quantised_head_gives_lazily_what_it_gives_at_once(
    make: Maker, method: str, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = make()
    assert denoiser.module is not None
    plain = law(denoiser)
    METHODS[method].apply(denoiser.module, [head_of(denoiser)])
    assert float((law(denoiser) - plain).abs().max()) > 0

    def run() -> tuple[list[list[int]], torch.Tensor]:
        prompts = [[1, 2, 3], [4], [5, 6]]
        out = generate(denoiser, prompts, sampler=sampler, max_new_tokens=8, seed=5, eos="keep")
        return out.token_ids, out.logprobs

    lazily, lazily_scores = run()
    forward = denoiser.forward

    def at_once(inputs: Pass) -> DenoiserOutput:
        out = forward(inputs)
        assert out.head is not None
        return out._replace(values=out.head(out.values), head=None)

    monkeypatch.setattr(denoiser, "forward", at_once)
    tokens, scores = run()
    assert tokens == lazily
    # which inputs are outliers of llm-int8 depends on all rows that are multiplied together
    near = 1e-2 if method == "llm-int8" else 1e-5
    torch.testing.assert_close(scores, lazily_scores, atol=near, rtol=near)


def test_weights_take_fewer_bytes_and_another_fingerprint(llada: Maker) -> None:
    sizes, digests = {}, set[str]()
    for method in (None, *FARTHEST):
        denoiser = llada()
        assert denoiser.module is not None
        if method is not None:
            quantise(denoiser, method)
        sizes[method] = weight_bytes(denoiser.module)
        digests.add(weights_digest(denoiser))
    layers = 2 * (4 * 32 * 32 + 3 * 32 * 48)
    rows = 2 * (4 * 32 + 2 * 48 + 32)  # scales, float32, and zeros, int8
    assert sizes["int8"] == sizes[None] - 4 * layers + layers + 5 * rows
    assert len(digests) >= 3, "int8 differs from int8-dynamic in the activations alone"


def test_an_adapter_is_merged_before_the_rounding(llada: Maker, tmp_path: Path) -> None:
    from tests.denoisers.checkpoints.test_adapters import adapted, write_adapter

    denoiser = llada()
    denoiser.save_pretrained(tmp_path / "base")
    layers = adapted(denoiser)
    write_adapter(tmp_path / "adapter", tmp_path / "base", layers)
    with torch.no_grad():
        merged = law(AutoDenoiser.from_pretrained(tmp_path / "adapter"))
        found = law(AutoDenoiser.from_pretrained(tmp_path / "adapter", quantize="int8"))
        base = law(AutoDenoiser.from_pretrained(tmp_path / "base"))
    assert (found - merged).abs().sum(-1).mean() / 2 < FARTHEST["int8"]
    assert (base - merged).abs().sum(-1).mean() / 2 > 2 * FARTHEST["int8"]


def test_what_cannot_be_done_is_said_at_once(
    llada: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llada().save_pretrained(tmp_path)
    load: Any = AutoDenoiser.from_pretrained
    with pytest.raises(ValueError, match=r"quantize='int9': must be one of .*Did you mean 'int8'"):
        load(tmp_path, quantize="int9")
    with pytest.raises(ValueError, match="quantize=True: must be one of"):
        load(tmp_path, quantize=True)
    with monkeypatch.context() as old:
        old.setattr(under_test, "find_spec", lambda name: True)
        old.setattr(under_test, "version", lambda name: "0.49.2")
        for method in BY_BITSANDBYTES:
            with pytest.raises(ValueError, match=r"bitsandbytes 0\.49\.2 needs a GPU, .*='int8'"):
                load(tmp_path, quantize=method, device_map="cpu")
    with pytest.raises(TypeError, match="load_in_8bit is quantize here"):
        load(tmp_path, load_in_8bit=True)
    denoiser = load(tmp_path, quantize="int8")
    with pytest.raises(TypeError, match=r"quantised \(int8\), and is not saved"):
        denoiser.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()
    monkeypatch.setattr(under_test, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install torchao"):
        load(tmp_path, quantize="int8")


def test_a_network_without_such_a_layer_is_refused(llada: Maker) -> None:
    denoiser = llada()
    denoiser.module = nn.Sequential(nn.Linear(24, 24), nn.Embedding(3, 3))
    with pytest.raises(ValueError, match="no linear layer whose inputs are a multiple of 32"):
        quantise(denoiser, "int4")


@torch.no_grad()
def test_a_checkpoint_that_transformers_has_quantised_loads(tmp_path: Path) -> None:
    """The laws are those of transformers' own model, and near those of the plain one."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import BertConfig, BertForMaskedLM, TorchAoConfig

    plain, packed = tmp_path / "plain", tmp_path / "packed"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        BertForMaskedLM(
            BertConfig(vocab_size=38, num_attention_heads=2, pad_token_id=0, **sizes)
        ).save_pretrained(plain)
    how = TorchAoConfig(Int8WeightOnlyConfig(set_inductor_config=False))
    model = BertForMaskedLM.from_pretrained(plain, quantization_config=how)
    model.save_pretrained(packed)
    found = AutoDenoiser.from_pretrained(packed, mask_token_id=37)
    assert found.quantized == "torchao"
    theirs = model(IDS).logits.double().softmax(-1)
    torch.testing.assert_close(law(found), theirs, atol=1e-6, rtol=0)
    away = law(found) - law(AutoDenoiser.from_pretrained(plain, mask_token_id=37))
    assert 0 < float(away.abs().sum(-1).mean()) / 2 < FARTHEST["int8"]
    prompt = generate(found, [[1, 2]], sampler="ancestral", max_new_tokens=4, seed=1)
    assert len(prompt.token_ids[0]) == 4
    with pytest.raises(ValueError, match=r"quantize='int8': .* torchao already"):
        AutoDenoiser.from_pretrained(packed, mask_token_id=37, quantize="int8")
    with pytest.raises(TypeError, match=r"quantised \(torchao\)"):
        found.save_pretrained(tmp_path / "again")


def test_plain_parts_of_a_plain_tensor() -> None:
    tensor = torch.ones(3)
    assert [part is tensor for part in plain_parts(tensor)] == [True]
