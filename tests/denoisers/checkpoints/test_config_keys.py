"""The keys of config.json: one rule for all families, over every fixture and embedded model."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from dlm_sampling import embedded
from dlm_sampling.checkup.doctor import diagnose
from dlm_sampling.denoisers import AutoDenoiser, CheckpointError, DDPDPlanner
from dlm_sampling.denoisers.auto import load_families
from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.config_keys import EVERYWHERE, ConfigKeys
from dlm_sampling.denoisers.checkpoints.value_kinds import ANY, TEXT, is_real
from dlm_sampling.denoisers.registry import FAMILIES, Family, LoadOptions, family_of
from tests.denoisers.fast_dllm_v2 import write_checkpoint

FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"
MADE = TemporaryDirectory()  # of a family without a fixture; deleted when Python ends
write_checkpoint(Path(MADE.name))
FOLDERS = {
    **{folder.name: folder for folder in sorted(FIXTURES.iterdir()) if folder.is_dir()},
    "fast_dllm_v2": Path(MADE.name),
    **{name: embedded.embedded_path(name) for name in embedded.embedded_models()},
}
UNKNOWN = {"attention_sinks": 4, "delete_token_id": 0, "expert_capacity": 2, "reversed": True}
"""Changes of a network that no family implements; LLaDA2.2 has two of them."""
TRAINING = {
    **{"future_window": None, "attn_pdrop": 0.1, "init_std": 0.1, "router_z_loss_coef": 3.0},
    **{"_name_or_path": "x", "use_mrope": None},
}
SWITCHED_OFF = {
    **{"use_rope": False, "use_qk_layers": False, "norm_topk": False, "offset": 0, "kinds": []},
    **{"pruned_heads": {"0": [1]}, "tie_encoder_decoder": True, "use_mrope": True},
}
"""Off is the change where the loader builds the thing; the last ones are harmless when off."""
SOUNDING_HARMLESS = {
    **{"logit_coef": 3.0, "residual_coef": 0.5, "attention_version": 2, "rope_version": 2},
    **{"init_scale": 2.0, "layer_dropout_scale": 2.0, "embed_loss_scale": 2.0, "_window": 4},
}
"""Names like those of training, of things that a network may read."""
RELEASED: dict[str, dict[str, Any]] = {
    "bert": {
        **{"directionality": "bidi", "gradient_checkpointing": False, "pooler_fc_size": 768},
        **{"pooler_type": "first_token_transform", "position_embedding_type": "absolute"},
        **{"torch_dtype": "float32", "use_cache": True, "_num_labels": 2, "pruned_heads": {}},
    },
    "distilbert": {"sinusoidal_pos_embds": False, "tie_weights_": True, "qa_dropout": 0.1},
    "modernbert": {
        **{"global_attn_every_n_layers": 3, "global_rope_theta": 16e4, "local_rope_theta": 1e4},
        **{"reference_compile": None, "deterministic_flash_attn": False, "norm_eps": 1e-5},
        **{"position_embedding_type": "absolute", "classifier_pooling": "mean"},
    },
    "xlm-roberta": {"output_past": True, "classifier_dropout": None},
    "eurobert": {"rope_theta": 25e4, "rope_scaling": None, "pretraining_tp": 1, "head_dim": 64},
    "deberta-v2": {"conv_kernel_size": 3, "share_att_key": True, "pooler_dropout": 0},
    "electra": {"summary_type": "first"},
    "mobilebert": {},
    "reformer": {},
}
"""Keys that released masked language models of transformers have beside those it writes today."""

INDEX = "model.safetensors.index.json"

CHOOSING = ("algo.name", "architectures", "auto_map", "graph.type", "model_type")
"""Keys that choose the family; they are checked before."""

load_families()


def opened(folder: Path, **change: Any) -> tuple[Checkpoint, Family]:
    config = json.loads((folder / "config.json").read_text()) | change
    family = family_of(config)
    assert family is not None
    return Checkpoint("tiny", folder, config), family


def keys_of(checkpoint: Checkpoint, family: Family) -> ConfigKeys:
    keys = family.keys_for(checkpoint.config)
    assert keys is not None
    return keys


@pytest.mark.parametrize("name", FOLDERS)
def test_published_configs_are_known_in_full(name: str) -> None:
    checkpoint, family = opened(FOLDERS[name])
    quiet = family.check(checkpoint)
    assert set(quiet) <= {"attention_dropout", *(k for k in checkpoint.config if "drop" in k)} | {
        *("init_cutoff_factor", "init_device", "init_fn", "init_std", "_name_or_path"),
        *("model.dropout", "router_aux_loss_coef"),
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_unknown_keys_are_refused_and_quiet_ones_listed(name: str) -> None:
    checkpoint, family = opened(FOLDERS[name], **UNKNOWN)
    with pytest.raises(CheckpointError) as refused:
        family.check(checkpoint)
    listed = "attention_sinks=4, delete_token_id=0, expert_capacity=2, reversed=True"
    assert f"config.json has {listed}, which the family {family.name} does not know" in str(
        refused.value
    )
    assert f"ignore_keys={sorted(UNKNOWN)}" in str(refused.value)
    plain, _ = opened(FOLDERS[name])
    assert family.check(checkpoint, UNKNOWN) == family.check(plain)
    quiet, _ = opened(FOLDERS[name], **TRAINING)
    assert {*family.check(quiet), *family.check(plain)} == {*family.check(plain), *TRAINING}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("changes", [SWITCHED_OFF, SOUNDING_HARMLESS], ids=["off", "sounding"])
def test_no_value_and_no_sound_of_a_name_makes_a_key_harmless(
    name: str, changes: dict[str, Any]
) -> None:
    checkpoint, family = opened(FOLDERS[name], **changes)
    with pytest.raises(CheckpointError) as refused:
        family.check(checkpoint)
    assert f"ignore_keys={sorted(changes)}" in str(refused.value)


@pytest.mark.parametrize("kind", RELEASED)
def test_released_masked_lms_are_known_in_full(kind: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = {**CONFIG_MAPPING[kind]().to_dict(), **RELEASED[kind]}
    family = family_of(config)
    assert family is FAMILIES["masked_lm"]
    family.check(Checkpoint("tiny", FIXTURES, config))


@pytest.mark.parametrize(
    ("name", "section", "change"),
    [
        ("sudoku4x4", "", {"bias": False, "scaling": 5.0, "sliding_window": 4}),
        ("sudoku4x4-loopholing", "", {"causal": True, "scaling": 5.0}),
        ("diffusion_gemma", "text_config", {"bias": True, "causal": True, "scaling": 5.0}),
        (
            "diffusion_gemma",
            "",
            {
                **{"attention_bias": False, "final_logit_softcapping": 1.0, "layer_types": ["x"]},
                **{"rope_scaling": {"factor": 2.0}, "rope_theta": 5.0, "sliding_window": 2},
            },
        ),
    ],
)
def test_a_word_of_the_source_is_no_key(name: str, section: str, change: dict[str, Any]) -> None:
    plain, family = opened(FOLDERS[name])
    prefix = f"{section}." if section else ""
    given = {section: {**plain.config[section], **change}} if section else change
    checkpoint, _ = opened(FOLDERS[name], **given)
    with pytest.raises(CheckpointError) as refused:
        family.check(checkpoint)
    assert f"ignore_keys={sorted(prefix + key for key in change)}" in str(refused.value)


def test_diffusion_gemma_reads_what_its_config_class_sets() -> None:
    plain, family = opened(FOLDERS["diffusion_gemma"])
    text = {**plain.config["text_config"], "final_logit_softcapping": 20.0, "is_causal": True}
    family.check(opened(FOLDERS["diffusion_gemma"], text_config=text)[0])
    text["is_causal"] = False
    with pytest.raises(CheckpointError, match=r"text_config\.is_causal=False; .* have True"):
        family.check(
            opened(FOLDERS["diffusion_gemma"], text_config={**text, "is_causal": False})[0]
        )


def test_two_widths_of_the_rotation_must_agree() -> None:
    """LLaDA2 is released with both; its class reads the share."""
    load = FAMILIES["llada2"].load
    options = LoadOptions(mask_token_id=126)
    load(opened(FOLDERS["llada2_moe"], rotary_dim=8)[0], options)
    with pytest.raises(CheckpointError, match="rotary_dim=16 beside a width of 8"):
        load(opened(FOLDERS["llada2_moe"], rotary_dim=16)[0], options)


def test_every_family_declares_its_keys() -> None:
    named = {opened(folder)[1].name for folder in FOLDERS.values()}
    assert named == {name for name in FAMILIES if FAMILIES[name].load.__module__.startswith("dlm")}


class Recording(Mapping[str, Any]):
    """A config that keeps the names of the keys that were read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values_, self.read = values, set[str]()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return self.values_[key]

    def __iter__(self) -> Any:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


@pytest.mark.parametrize(
    "name", [name for name in FOLDERS if name not in embedded.embedded_models()]
)
def test_what_is_declared_is_what_the_loader_reads(name: str) -> None:
    """Of this layout: a flat and a nested config each have keys that the other lacks."""
    plain, family = opened(FOLDERS[name])
    if name in ("ddpd_planner", "diffusion_gemma"):
        pytest.skip("its loader is not called with the config, or hands it to transformers")
    config = Recording(plain.config)
    vars(plain)["config"] = config
    family.load(plain, LoadOptions(mask_token_id=126))
    declared = {key.partition(".")[0] for key in keys_of(plain, family).read}
    known = {*declared, *EVERYWHERE, "quantization_config"}
    assert config.read <= known, "read and not declared"
    unread = (declared & set(plain.config)) - config.read
    assert unread <= {"mlp_ratio", "vocab_size"}, "declared, and neither read nor a fallback"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_value_of_another_kind_names_file_and_key(name: str) -> None:
    """Each of the keys that are read, set to a value that no kind allows."""
    plain, family = opened(FOLDERS[name])
    for key, kind in {**EVERYWHERE, **keys_of(plain, family).read}.items():
        if kind is ANY or key in CHOOSING:
            continue
        wrong: Any = {"a": [1]} if kind is TEXT else "much"
        section, _, leaf = key.rpartition(".")
        change = {key: wrong}
        if section:
            change = {section: {**plain.config.get(section, {}), leaf: wrong}}
        checkpoint = Checkpoint("tiny", plain.folder, {**plain.config, **change})
        with pytest.raises(CheckpointError) as refused:
            family.check(checkpoint)
        assert f"'tiny': config.json has {key}=" in str(refused.value)
        assert "must be " in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_map": ["AutoModel"]}, "config.json has auto_map=.*must be an object"),
        ({"architectures": "BertForMaskedLM"}, "config.json has architectures=.*a list of strings"),
        ({"model_type": ["bert"]}, "config.json has model_type=.*must be a string"),
        ({"num_hidden_layers": 0}, "config.json has num_hidden_layers=0: must be a whole number"),
        ({"num_hidden_layers": 10**9}, "config.json has num_hidden_layers=1000000000: must be"),
        ({"hidden_size": float("nan")}, "config.json has hidden_size=nan"),
        ({"layer_norm_eps": 10**400}, "config.json has .*layer_norm_eps"),
        ({"hidden_dropout_prob": "x"}, "config.json has .*hidden_dropout_prob"),
        ({"num_attention_heads": 7}, "config.json has .*number of attention heads"),
        ({"is_decoder": True}, "config.json has is_decoder=True; .* have False"),
        ({"is_causal": True}, "config.json has is_causal=True; .* have False"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ],
)
def test_malformed_values_of_a_masked_lm(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    shutil.copytree(FOLDERS["sudoku4x4"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        AutoDenoiser.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", '{"a":' * 10**5 + "1" + "}" * 10**5, "config.json is not readable JSON"),
        ("config.json", "[1]", "config.json is not a JSON object"),
        ("sampler_config.json", '{"sampler": null}', "sampler_config.json names no sampler"),
        ("sampler_config.json", '{"sampler": ["llada"]}', "sampler_config.json has sampler="),
        ("sampler_config.json", '{"sampler": "llada", "top_k": "x"}', "has top_k='x': must be"),
        ("sampler_config.json", '{"sampler": "llada", "sampler_options": [1]}', "sampler_options="),
        (INDEX, '{"weight_map": ["a"]}', "index.json has no weight_map"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": 1}}',
            "index.json has no weight_map",
        ),
    ],
)
def test_malformed_files_are_named(file: str, text: str, message: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDERS["tiny-books"], tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        AutoDenoiser.from_pretrained(tmp_path)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_masked_lm_cut_short_is_refused(layers: int, tmp_path: Path) -> None:
    shutil.copytree(FOLDERS["sudoku4x4"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": layers}))
    with pytest.raises(CheckpointError, match=r"unexpected tensors, first bert\.encoder\.layer\."):
        AutoDenoiser.from_pretrained(tmp_path)


def test_heads_of_further_tasks_are_no_unexpected_tensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    further = {"bert.pooler.dense.weight": torch.zeros(8, 8)}
    further |= {"cls.seq_relationship.bias": torch.zeros(2)}
    save_file(load_file(file) | further, file, metadata={"format": "pt"})
    assert AutoDenoiser.from_pretrained(tmp_path, mask_token_id=3).vocab_size == 20


@torch.no_grad()
def test_llada2_2_loads_only_on_request_and_doctor_lists_the_rest(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "llada2_moe", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "config.json"
    newer = {"delete_token_id": 124, "expert_capacity": 2, "split_token_id": 123}
    published = {  # keys of releases that say what the class does anyway
        **{"norm_topk_prob": True, "score_function": "sigmoid", "use_rmsnorm": True},
        **{"num_nextn_predict_layers": 0, "router_dtype": "fp32"},
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | newer | published | {"later": None}))
    with pytest.raises(CheckpointError, match="delete_token_id=124, expert_capacity=2, split"):
        AutoDenoiser.from_pretrained(tmp_path, mask_token_id=126)
    found = AutoDenoiser.from_pretrained(tmp_path, mask_token_id=126, ignore_keys=list(newer))
    assert "later" in found.unread_keys
    (check,) = [check for check in diagnose(found).checks if check.name == "config keys"]
    assert "later" in check.detail
    with pytest.raises(TypeError, match="ignore_keys='expert_capacity': must be a list of keys"):
        AutoDenoiser.from_pretrained(tmp_path, ignore_keys="expert_capacity")


def test_planners_are_checked_too(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "ddpd_planner", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | UNKNOWN))
    with pytest.raises(CheckpointError, match="attention_sinks=4"):
        DDPDPlanner.from_pretrained(tmp_path)


def test_a_number_that_torch_cannot_hold_is_none() -> None:
    assert is_real(2**63 - 1)
    assert not is_real(-(2**63))
    assert not is_real(10**400)
