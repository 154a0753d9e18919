"""A checkpoint that cannot be loaded says so in one line; nothing is ever filled in at random."""

import json
import pickle
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dlm_sampling.denoisers import AutoDenoiser, CheckpointError, Denoiser
from dlm_sampling.denoisers.checkpoints import reach
from dlm_sampling.denoisers.checkpoints.convert import convert
from dlm_sampling.denoisers.checkpoints.placement import single_device
from dlm_sampling.denoisers.checkpoints.weights import save_weights
from tests.bare import run
from tests.forks import ROOT, Forks, run_module

V = 40
Maker = Callable[..., Denoiser]


@pytest.fixture
def folder(llada: Maker, tmp_path: Path) -> Path:
    llada().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        AutoDenoiser.from_pretrained(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def shard(folder: Path) -> list[Path]:
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    table = torch.nn.ParameterDict({name.replace(".", "/"): value for name, value in whole.items()})
    save_weights(table, folder, lambda key: key.replace("/", "."), max_shard_size="10KB")
    return sorted(folder.glob("model-*.safetensors"))


def test_missing_tensor(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.pop("model.transformer.blocks.1.attn_norm.weight"))
    assert "1 tensors are missing, first model.transformer.blocks.1.attn_norm" in refusal(folder)


def test_a_head_that_should_not_be_tied(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.pop("model.transformer.ff_out.weight"))
    assert "first model.transformer.ff_out.weight" in refusal(folder)


def test_unexpected_tensor(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.update(extra=torch.ones(1)))
    assert "1 unexpected tensors, first extra" in refusal(folder)


def test_other_shape(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.update({"model.transformer.ln_f.weight": torch.ones(31)}))
    assert "ln_f.weight has shape (31,), config.json says (32,)" in refusal(folder)


def test_file_cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "not a complete safetensors file" in refusal(folder)


def test_missing_shard(folder: Path) -> None:
    shards = shard(folder)
    shards[1].unlink()
    message = refusal(folder)
    assert f"1 of {len(shards)} weight files are missing, first {shards[1].name}" in message


def test_shard_without_a_promised_tensor(folder: Path) -> None:
    shards = shard(folder)
    save_file({"other": torch.ones(1)}, shards[-1])
    assert "which the index promises" in refusal(folder)


def test_index_that_points_outside(folder: Path) -> None:
    shard(folder)
    index = folder / "model.safetensors.index.json"
    (folder.parent / "secret.safetensors").write_bytes(b"")
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    assert "download it again" in refusal(folder)


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def test_pickle_is_refused_and_stays_inert(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    message = refusal(folder)
    assert "has only pytorch_model.bin. Pickle files are not loaded. Convert once:" in message
    assert not Path("exploded").exists()


@torch.no_grad()
def test_pickled_weights_can_be_converted_once(llada: Maker, folder: Path, forks: Forks) -> None:
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(whole, folder / "pytorch_model.bin")
    module = "dlm_sampling.denoisers.checkpoints.convert"
    code, _, err = forks.call(run_module, module, str(folder)).ended()
    assert code == 0, err.decode()
    ids = torch.arange(8)[None]
    assert torch.equal(AutoDenoiser.from_pretrained(folder).logits(ids), llada().logits(ids))


@torch.no_grad()
def test_pickled_shards_can_be_converted(llada: Maker, folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, shards = sorted(whole), {}
    for i, part in enumerate((names[:9], names[9:])):
        file = f"pytorch_model-{i}.bin"
        torch.save({name: whole[name] for name in part}, folder / file)
        shards |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": shards}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert len(convert(folder)) == 3
    ids = torch.arange(8)[None]
    assert torch.equal(AutoDenoiser.from_pretrained(folder).logits(ids), llada().logits(ids))


def test_conversion_runs_no_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Bomb()}))
    with pytest.raises(CheckpointError, match="is not a plain state dict"):
        convert(folder)
    assert not Path("exploded").exists()
    torch.save({"epoch": 3}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="'epoch' is no tensor"):
        convert(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="nothing to convert"):
        convert(folder)


class Hub:
    """Stands in for the hub: serves a folder, and remembers what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, files: list[str]) -> None:
        self.asked: dict[str, Any] = {}
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot_download)
        monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name, revision=None: files)
        monkeypatch.setattr(reach, "why_out_of_reach", lambda address: None)
        self.folder = folder

    def snapshot_download(self, name: str, **options: Any) -> str:
        self.asked = {"name": name, **options}
        return str(self.folder)


def test_the_hub_is_asked_for_no_code_and_no_pickles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(monkeypatch, folder, [])
    AutoDenoiser.from_pretrained("org/model", revision="v1", cache_dir="c", local_files_only=True)
    asked = hub.asked
    assert (asked["name"], asked["revision"], asked["cache_dir"]) == ("org/model", "v1", "c")
    assert asked["local_files_only"] is True
    assert not any(fnmatch("modeling_x.py", pattern) for pattern in asked["allow_patterns"])
    assert not any(fnmatch("pytorch_model.bin", pattern) for pattern in asked["allow_patterns"])


def test_a_repository_with_pickles_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.safetensors").unlink()
    Hub(monkeypatch, folder, ["config.json", "pytorch_model.bin"])
    with pytest.raises(CheckpointError, match=r"'org/model' has only pytorch_model.bin.*Convert"):
        AutoDenoiser.from_pretrained("org/model")


def test_a_repository_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **options: Any) -> str:
        raise OSError("No such repository.\nLong explanation.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr(reach, "why_out_of_reach", lambda address: None)
    with pytest.raises(CheckpointError, match=r"could not be downloaded: No such repository\. Ch"):
        AutoDenoiser.from_pretrained("org/model")


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refusal(folder)


def test_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "config.json is not readable JSON" in refusal(folder)
    (folder / "config.json").write_text("[]")
    assert "config.json is not a JSON object" in refusal(folder)


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


def test_no_folder(tmp_path: Path) -> None:
    assert "is not a checkpoint folder" in refusal(tmp_path / "nowhere")


def test_architectures_that_no_release_uses(folder: Path) -> None:
    configure(folder, alibi=True)
    assert "alibi=True; known llada checkpoints have False" in refusal(folder)


def test_missing_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["n_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "lacks n_layers" in refusal(folder)


def test_mask_id_comes_from_the_caller_then_the_config_then_the_family(folder: Path) -> None:
    assert AutoDenoiser.from_pretrained(folder).mask_token_id == 39
    assert AutoDenoiser.from_pretrained(folder, mask_token_id=5).mask_token_id == 5
    assert "mask_token_id 40 is outside" in refusal(folder, mask_token_id=V)
    configure(folder, mask_token_id=None)
    assert "the family's mask id 126336 is outside the vocabulary of 40" in refusal(folder)


def test_unknown_family(folder: Path) -> None:
    configure(folder, model_type="gpt5")
    message = refusal(folder)
    assert "model_type 'gpt5'" in message
    assert (
        "Native: bd3lm, diffusion_gemma, dream, duo, fast_dllm_v2, llada, llada2, llada_moe, "
        "loopholing, masked_lm, mdlm, sdar, sedd." in message
    )
    configure(folder, auto_map={"AutoConfig": "configuration_x.C", "AutoModel": "modeling_x.M"})
    assert "needs its own Python code (modeling_x.py)" in refusal(folder)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_model_that_is_known_and_not_built_is_told_by_name(folder: Path, trusted: bool) -> None:
    """E2D2: its own code would load, and give logits of a canvas with further noise."""
    configure(folder, model_type="e2d2", auto_map={"AutoModelForMaskedLM": "diffusion.E2D2"})
    message = refusal(folder, trust_remote_code=trusted)
    assert "is E2D2, an encoder with a decoder, which is not built here" in message


def test_a_head_of_its_own_in_a_file_that_is_tied_is_not_left_out(folder: Path) -> None:
    configure(folder, weight_tying=True)
    head, embedding = "model.transformer.ff_out.weight", "model.transformer.wte.weight"
    assert f"{head} is stored and differs from model.embed_tokens.weight" in refusal(folder)
    edit(folder, lambda tensors: tensors.update({head: tensors[embedding].clone()}))
    module = AutoDenoiser.from_pretrained(folder).module
    assert module is not None
    tied = ("lm_head.weight", "model.embed_tokens.weight")
    assert module.get_parameter(tied[0]) is module.get_parameter(tied[1])


def test_the_mixture_of_experts_is_not_the_dense_model(folder: Path) -> None:
    configure(folder, num_experts=64)
    refusal(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"torch_dtype": "float16"}, "transformers' torch_dtype is dtype here"),
        ({"mask_id": 3}, "LLaDA's mask_id is mask_token_id here"),
        ({"trust_remote_cod": True}, "Did you mean 'trust_remote_code'"),
        ({"shifted": True}, "Unknown argument 'shifted'"),
    ],
)
def test_unknown_options_name_the_nearest(folder: Path, options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        AutoDenoiser.from_pretrained(folder, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype='int8': must be 'auto' or one of"),
        ({"dtype": torch.int8}, "must be 'auto' or one of"),
        ({"device_map": "gpu"}, "must be a device such as 'cpu'"),
        ({"device_map": "cuda:99"}, "Use 'cpu', or leave device_map"),
    ],
)
def test_wrong_values(folder: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoDenoiser.from_pretrained(folder, **options)


def test_the_default_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, place in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert single_device(None) == torch.device(place)
    assert single_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("device_map", ["cpu", torch.device("cpu"), {"": "cpu"}, None])
def test_one_device_needs_no_accelerate(
    folder: Path, device_map: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlm_sampling.denoisers.checkpoints.placement.find_spec", lambda name: None)
    assert AutoDenoiser.from_pretrained(folder, device_map=device_map).device.type == "cpu"


def test_several_devices_need_accelerate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlm_sampling.denoisers.checkpoints.placement.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install accelerate"):
        AutoDenoiser.from_pretrained(folder, device_map="auto")


@torch.no_grad()
def test_a_plan_over_devices_gives_the_same_logits(llada: Maker, folder: Path) -> None:
    pytest.importorskip("accelerate")
    plan = {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.norm": "cpu"}
    plan |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}
    ids = torch.arange(8)[None]
    for device_map in (plan, "auto", "sequential"):
        loaded = AutoDenoiser.from_pretrained(folder, device_map=device_map)
        torch.testing.assert_close(loaded.logits(ids), llada().logits(ids))


def test_importing_the_denoisers_imports_neither_transformers_nor_triton(bare: Forks) -> None:
    code = (
        "import sys, dlm_sampling.denoisers, dlm_sampling.checkup.doctor\n"
        "dlm_sampling.denoisers.auto.load_families()\n"
        "sys.exit(', '.join({'transformers', 'triton', 'accelerate'} & set(sys.modules)) or 0)"
    )
    status, _, err = run(bare, code, ROOT, [ROOT])
    assert status == 0, err
