"""Adapters: a PEFT folder loads merged, a model with adapters saves merged, others are refused."""

import dataclasses
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from transformers import BertConfig, BertForMaskedLM

from dlm_sampling.denoisers import AutoDenoiser, CheckpointError, Denoiser, auto
from dlm_sampling.denoisers.checkpoints.adapters import KINDS, ONLY, WITHOUT_EFFECT, read_adapter
from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint

Maker = Callable[..., Denoiser]
IDS = torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(0))
RANK, ALPHA = 2, 6.0


class Adapted(nn.Module):
    """A layer as PEFT builds it: the base layer, factors A and B by adapter, and their product."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(base.out_features)
        a, b = nn.Linear(base.in_features, RANK, False), nn.Linear(RANK, base.out_features, False)
        for factor in (a, b):
            nn.init.normal_(factor.weight, 0.0, 0.3, generator=generator)
        self.base_layer, self.out_features = base, base.out_features
        self.in_features = base.in_features
        self.lora_A, self.lora_B = nn.ModuleDict({"default": a}), nn.ModuleDict({"default": b})
        self.disable_adapters, self.merged = False, False

    def get_delta_weight(self, adapter: str) -> Tensor:
        a: Any = self.lora_A[adapter]
        b: Any = self.lora_B[adapter]
        return b.weight @ a.weight * ALPHA / RANK

    def merge(self) -> None:
        self.get_submodule("base_layer").get_parameter("weight").add_(
            self.get_delta_weight("default")
        )
        self.merged = True

    def unmerge(self) -> None:
        self.get_submodule("base_layer").get_parameter("weight").sub_(
            self.get_delta_weight("default")
        )
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x)
        plain = self.disable_adapters or self.merged
        return result if plain else result + x @ self.get_delta_weight("default").T


class Scaled(Adapted):
    """A layer whose change is no sum: it scales what its base computes, an adapter or not."""

    def merge(self) -> None:
        layer: Any = self.base_layer
        while isinstance(layer, Adapted):
            layer = layer.base_layer
        layer.weight.mul_(3.0)
        self.merged = True

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) * (1.0 if self.merged else 3.0)


class Whole(nn.Module):
    """A part that is trained whole, as PEFT keeps it: beside the original, called in its place."""

    def __init__(self, original: nn.Linear) -> None:
        super().__init__()
        self.original_module, self.disable_adapters = original, False
        self.modules_to_save = nn.ModuleDict({"default": Doubled.apply_to(original)})

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        return self.modules_to_save["default"]

    def forward(self, x: Tensor) -> Tensor:
        own = self.original_module if self.disable_adapters else self.modules_to_save["default"]
        return own(x)


class Doubled(nn.Module):
    """A parametrisation of torch."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight

    @staticmethod
    def apply_to(layer: nn.Linear) -> nn.Module:
        copied = deepcopy(layer)
        register_parametrization(copied, "weight", Doubled())
        return copied


def adapted(denoiser: Denoiser) -> dict[str, Adapted]:
    """Put adapters around some layers, in place; returns them by the place of their layer."""
    network: Any = denoiser.module
    places = [key for key, part in network.named_modules() if type(part) is nn.Linear][1:4]
    for place in places:
        path, _, leaf = place.rpartition(".")
        setattr(network.get_submodule(path), leaf, Adapted(network.get_submodule(place)))
    return {place: network.get_submodule(place) for place in places}


def write_adapter(folder: Path, base: Path, layers: dict[str, Adapted], **change: Any) -> None:
    folder.mkdir()
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    config |= {"base_model_name_or_path": str(base), "target_modules": ["x"], "lora_dropout": 0.1}
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    tensors: dict[str, Tensor] = {}
    for place, layer in layers.items():
        a: Any = layer.lora_A["default"]
        b: Any = layer.lora_B["default"]
        tensors[f"base_model.model.{place}.lora_A.weight"] = a.weight.detach()
        tensors[f"base_model.model.{place}.lora_B.weight"] = b.weight.detach()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
@pytest.mark.parametrize("authors", [False, True], ids=["our names", "authors' names"])
def test_base_and_adapter_load_merged(make: Maker, authors: bool, tmp_path: Path) -> None:
    denoiser: Any = make()
    denoiser.save_pretrained(tmp_path / "base")
    before = denoiser.logits(IDS)
    layers = adapted(denoiser)
    wanted = denoiser.logits(IDS)
    assert (wanted - before).abs().max() > 0.1
    if authors:
        named = {denoiser.authors_name(f"{key}.weight"): layer for key, layer in layers.items()}
        layers = {key.removesuffix(".weight"): layer for key, layer in named.items()}
    write_adapter(tmp_path / "adapter", tmp_path / "base", layers)
    found = AutoDenoiser.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(found.logits(IDS), wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_model_with_adapters_saves_merged(make: Maker, tmp_path: Path) -> None:
    denoiser = make()
    adapted(denoiser)
    denoiser.save_pretrained(tmp_path, max_shard_size="20KB")  # type: ignore[call-arg]
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    found = AutoDenoiser.from_pretrained(tmp_path)
    torch.testing.assert_close(found.logits(IDS), denoiser.logits(IDS), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "case", ["off", "merged", "merged and off", "scaled", "over", "whole", "2"]
)
def test_what_is_saved_is_the_network_as_it_runs(case: str, llada: Maker, tmp_path: Path) -> None:
    denoiser = llada()
    layers = adapted(denoiser)
    network: Any = denoiser.module
    for place, layer in layers.items():
        base: Any = layer.base_layer
        other = {"scaled": Scaled, "whole": Whole, "2": Doubled.apply_to}.get(case)
        new: Any = layer if other is None else other(base)
        new = Scaled(layer) if case == "over" else new
        if "merged" in case:
            new.merge()
        new.disable_adapters = case.endswith("off")
        path, _, leaf = place.rpartition(".")
        setattr(network.get_submodule(path), leaf, new)
    wanted = denoiser.logits(IDS)
    assert (wanted - llada().logits(IDS)).abs().max() > 0.1 or case.endswith("off")
    denoiser.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    found = AutoDenoiser.from_pretrained(tmp_path)
    torch.testing.assert_close(found.logits(IDS), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(denoiser.logits(IDS), wanted, atol=0.0, rtol=0.0)


def test_an_adapter_of_one_of_two_tied_weights_is_refused(llada: Maker, tmp_path: Path) -> None:
    denoiser: Any = llada(tie=True)
    embedding = denoiser.module.model.embed_tokens
    denoiser.module.model.embed_tokens = Whole(embedding)
    with pytest.raises(TypeError, match=r"embed_tokens.weight and lm_head.weight are one tensor"):
        denoiser.save_pretrained(tmp_path)


@torch.no_grad()
def test_a_masked_language_model_with_adapters_saves_merged(tmp_path: Path) -> None:
    sizes: Any = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    made: Any = BertForMaskedLM
    made(BertConfig(vocab_size=30, **sizes)).save_pretrained(tmp_path / "base")
    denoiser: Any = AutoDenoiser.from_pretrained(tmp_path / "base", mask_token_id=3)
    before = denoiser.logits(IDS)
    adapted(denoiser)
    wanted = denoiser.logits(IDS)
    assert (wanted - before).abs().max() > 1e-3
    denoiser.save_pretrained(tmp_path / "saved")
    found = AutoDenoiser.from_pretrained(tmp_path / "saved", mask_token_id=3)
    torch.testing.assert_close(found.logits(IDS), wanted, atol=1e-5, rtol=1e-5)


def test_the_base_of_an_adapter_may_be_embedded(tmp_path: Path) -> None:
    base: Any = AutoDenoiser.from_pretrained("sudoku4x4").module
    names = [name for name, part in base.named_modules() if type(part) is nn.Linear]
    layer = Adapted(base.get_submodule(names[0]))
    write_adapter(tmp_path / "a", Path("sudoku4x4"), {names[0]: layer})
    found: Any = AutoDenoiser.from_pretrained(tmp_path / "a").module
    wanted = layer.base_layer.weight + layer.get_delta_weight("default")
    torch.testing.assert_close(found.get_submodule(names[0]).weight, wanted)


def test_a_base_that_is_missing_or_an_adapter_is_told(tmp_path: Path) -> None:
    write_adapter(tmp_path / "first", tmp_path / "none", {})
    write_adapter(tmp_path / "second", tmp_path / "first", {})
    with pytest.raises(
        CheckpointError, match=r"'.*/first': its base: '.*/none' is not a checkpoint"
    ):
        AutoDenoiser.from_pretrained(tmp_path / "first")
    with pytest.raises(
        CheckpointError, match=r"'.*/second': its base '.*/first' is an adapter too"
    ):
        AutoDenoiser.from_pretrained(tmp_path / "second")


def test_other_adapters_are_refused(llada: Maker, tmp_path: Path) -> None:
    denoiser = llada()
    denoiser.save_pretrained(tmp_path / "base")
    layers = adapted(denoiser)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"use_dora": True}, "adapter_config.json has use_dora=True"),
        ({"peft_type": "IA3"}, "peft_type='IA3'.*merge_and_unload"),
        ({"r": "two"}, "adapter_config.json has r='two': must be a whole number"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
    ]
    for i, (change, message) in enumerate(cases):
        write_adapter(tmp_path / str(i), tmp_path / "base", layers, **change)
        with pytest.raises(CheckpointError, match=message):
            AutoDenoiser.from_pretrained(tmp_path / str(i))
    elsewhere = {"model.layers.9.self_attn.q_proj": next(iter(layers.values()))}
    write_adapter(tmp_path / "other", tmp_path / "base", elsewhere)
    with pytest.raises(CheckpointError, match="2 tensors of the adapter have no place"):
        AutoDenoiser.from_pretrained(tmp_path / "other")
    network: Any = denoiser.module
    for layer in layers.values():
        del layer.disable_adapters
    with pytest.raises(TypeError, match="an adapter that cannot be merged"):
        denoiser.save_pretrained(tmp_path / "never")
    assert network is denoiser.module


PLAIN: dict[str, Any] = {
    **{"alpha_pattern": {}, "auto_mapping": None, "bias": "none", "inference_mode": True},
    **{"init_lora_weights": "gaussian", "layers_to_transform": [0], "loftq_config": {}},
    **{"later": None, "lora_bias": False, "megatron_core": "megatron.core", "peft_version": "0.21"},
    **{"qalora_group_size": 16, "revision": None, "task_type": "CAUSAL_LM", "use_qalora": False},
}
"""Keys that PEFT writes for a plain adapter."""
CHANGED: dict[str, Any] = {
    **{"alora_invocation_tokens": [7], "alpha_pattern": {"x": 3}, "arrow_config": {"top_k": 2}},
    **{"bias": "all", "corda_config": {}, "ensure_weight_tying": True, "fan_in_fan_out": True},
    **{"init_lora_weights": "pissa_niter_4", "kasa_config": {}, "layer_replication": [[0, 2]]},
    **{"lora_bias": True, "lora_ga_config": {}, "megatron_config": {}, "modules_to_save": ["h"]},
    **{"loftq_config": {"bits": 4}, "monteclora_config": {}, "rank_pattern": {"x": 3}},
    **{"target_parameters": ["w"], "trainable_token_indices": [0], "use_bdlora": {}},
    **{"use_dora": 1, "use_qalora": True, "velora_config": {}},
}


def test_each_key_of_an_adapter_is_known_or_refused_by_name(tmp_path: Path) -> None:
    write_adapter(tmp_path / "plain", tmp_path, {}, **PLAIN)
    assert read_adapter(tmp_path / "plain", "a")["r"] == RANK
    for key, value in {**CHANGED, "use_later": False, "scaling": 2}.items():
        folder = tmp_path / key
        write_adapter(folder, tmp_path, {}, **PLAIN | {key: value})
        with pytest.raises(CheckpointError, match=f"adapter_config.json has {key}=.*merge_and_unl"):
            read_adapter(folder, "a")
    assert {*ONLY} - {*CHANGED} == {"enable_lora", "peft_type"}


@pytest.mark.slow
@torch.no_grad()
def test_what_peft_loads_is_loaded_alike_or_refused(tmp_path: Path) -> None:
    peft: Any = pytest.importorskip("peft", reason="needs: pip install 'dlm-sampling[rl]'")
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert fields <= {*KINDS, *ONLY, *WITHOUT_EFFECT}
    bert: Any = BertForMaskedLM
    sizes: Any = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert(BertConfig(vocab_size=30, **sizes)).save_pretrained(tmp_path / "base")
    plain: list[dict[str, Any]] = [
        {},
        {"use_rslora": True},
        {"layers_to_transform": [1]},
        {"lora_dropout": 0.3},
    ]
    plain += [{"init_lora_weights": start} for start in (False, "gaussian", "orthogonal", "eva")]
    other: list[dict[str, Any]] = [
        {"init_lora_weights": start} for start in ("pissa", "olora", "mica", "lora_ga")
    ]
    other += [{"layer_replication": [[0, 1], [0, 2]]}, {"use_dora": True}, {"lora_bias": True}]
    for i, change in enumerate([*plain, *other]):
        folder = tmp_path / str(i)
        config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["query", "value"], **change)
        model = peft.get_peft_model(bert.from_pretrained(tmp_path / "base"), config)
        for name, weight in model.named_parameters():
            weight += 0.3 * torch.randn(weight.shape) if "lora_" in name else 0
        model.save_pretrained(folder)
        base = bert.from_pretrained(tmp_path / "base")
        wanted = peft.PeftModel.from_pretrained(base, folder).eval()(input_ids=IDS).logits
        if change in plain:
            found = AutoDenoiser.from_pretrained(folder, mask_token_id=3)
            torch.testing.assert_close(found.logits(IDS), wanted, atol=1e-5, rtol=1e-5)
        else:
            with pytest.raises(CheckpointError, match=f"has {next(iter(change))}=.*merge_and"):
                AutoDenoiser.from_pretrained(folder, mask_token_id=3)


@pytest.mark.slow
@torch.no_grad()
def test_what_peft_computes_is_what_is_saved(llada: Maker, tmp_path: Path) -> None:
    peft: Any = pytest.importorskip("peft", reason="needs: pip install 'dlm-sampling[rl]'")
    layers = {"target_modules": ["q_proj", "v_proj"]}
    lora, both = {"r": 2, "lora_alpha": 6, **layers}, ["a", "default"]
    configs = [
        peft.LoraConfig(**lora, use_dora=True),
        peft.LoraConfig(**lora, modules_to_save=["o_proj"], trainable_token_indices=[1, 2]),
        peft.OFTConfig(r=0, oft_block_size=4, **layers),
        peft.HRAConfig(r=2, **layers),
        peft.IA3Config(feedforward_modules=[], **layers),
        peft.LNTuningConfig(target_modules=["input_layernorm"]),
    ]
    for i, config in enumerate(configs):
        denoiser: Any = llada()
        before, network = denoiser.logits(IDS), denoiser.module
        model = peft.get_peft_model(network, config)
        if i == 0:  # another adapter beside it, of other layers
            model.add_adapter(
                "a", peft.LoraConfig(**lora | {"target_modules": ["q_proj", "o_proj"]})
            )
            model.base_model.set_adapter(both)
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape) if weight.requires_grad else 0
        model.eval()
        wanted = denoiser.logits(IDS)
        assert (wanted - before).abs().max() > 0.1
        denoiser.save_pretrained(tmp_path / str(i))
        found = AutoDenoiser.from_pretrained(tmp_path / str(i))
        torch.testing.assert_close(found.logits(IDS), wanted, atol=1e-4, rtol=1e-4)


def test_factors_of_another_rank_than_the_config_are_refused(llada: Maker, tmp_path: Path) -> None:
    """The rank of the config says how the factors are scaled."""
    denoiser = llada()
    denoiser.save_pretrained(tmp_path / "base")
    write_adapter(tmp_path / "adapter", tmp_path / "base", adapted(denoiser), r=4)
    with pytest.raises(CheckpointError, match="factors of rank 2, and adapter_config"):
        AutoDenoiser.from_pretrained(tmp_path / "adapter")


def test_an_adapter_names_the_revision_of_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def open_checkpoint(name: str, *, revision: str | None) -> Checkpoint:
        asked.append(revision)
        raise CheckpointError("none")

    monkeypatch.setattr(auto, "open_checkpoint", open_checkpoint)
    write_adapter(tmp_path / "a", Path("org/base"), {}, revision="v2")
    options: list[dict[str, Any]] = [{}, {"revision": "v3"}]
    for given in options:
        with pytest.raises(CheckpointError):
            AutoDenoiser.from_pretrained(tmp_path / "a", **given)
    assert asked == ["v2", "v3"]


def test_quantised_checkpoints_are_refused_by_name(llada: Maker, tmp_path: Path) -> None:
    llada().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    section = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    file.write_text(json.dumps(json.loads(file.read_text()) | section))
    with pytest.raises(CheckpointError, match="is quantised with gptq"):
        AutoDenoiser.from_pretrained(tmp_path)
