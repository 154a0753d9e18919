"""The values of config.json: nulls, ids outside the vocabulary, and two keys of one size."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlm_sampling import embedded
from dlm_sampling.denoisers import AutoDenoiser, CheckpointError, DDPDPlanner
from dlm_sampling.denoisers.auto import load_families
from dlm_sampling.denoisers.checkpoints.config_keys import EVERYWHERE
from dlm_sampling.denoisers.registry import family_of

FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"
NAMES = {
    **{folder.name: folder for folder in sorted(FIXTURES.iterdir()) if folder.is_dir()},
    **{name: embedded.embedded_path(name) for name in ("sudoku4x4", "sudoku4x4-loopholing")},
}
Config = dict[str, Any]


def copied(source: Path, folder: Path, config: Config) -> Path:
    """Make a folder with the files of another and its own config.json."""
    folder.mkdir()
    for file in source.iterdir():
        if file.is_file() and file.name not in ("config.json", "sampler_config.json"):
            (folder / file.name).symlink_to(file)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def config_of(name: str) -> Config:
    return json.loads((NAMES[name] / "config.json").read_text())


def changed(config: Config, key: str, value: object = None, *, drop: bool = False) -> Config:
    """Copy a config with one value, "a.b" of the object a, changed or without it."""
    head, _, rest = key.partition(".")
    if rest:
        return {**config, head: changed(config.get(head, {}), rest, value, drop=drop)}
    left = {each: kept for each, kept in config.items() if each != head}
    return left if drop else {**left, head: value}


@torch.no_grad()
def outcome(name: str, folder: Path, config: Config) -> Tensor | str:
    """Return logits of a fixed canvas, or the message of a refusal."""
    copied(NAMES[name], folder, config)
    try:
        if name == "ddpd_planner":
            return DDPDPlanner.from_pretrained(folder)(torch.arange(16)[None])
        found = AutoDenoiser.from_pretrained(folder, mask_token_id=3)
    except CheckpointError as error:
        return str(error).replace(repr(str(folder)), "")
    time = torch.tensor([0.4], dtype=torch.float64) if found.time_conditioned else None
    return found.logits(torch.arange(16)[None] % min(found.vocab_size, 16), None, time)


def keys_in(config: Config) -> list[str]:
    """List the keys of a config that its family reads."""
    load_families()
    family = family_of(config)
    assert family is not None
    keys = family.keys_for(config)
    assert keys is not None
    nested = [f"{k}.{each}" for k in keys.sections() for each in config.get(k, {})]
    return [key for key in [*config, *nested] if key in {**keys.read, **EVERYWHERE}]


@pytest.fixture
def weights_of_no_file_are_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the weights of a wrong config took a fifth of the time; none of them is ever used.

    A null can make a network of other sizes, of a hundred million weights that the file lacks: one
    NaN in each table is enough for what is computed with it.
    """

    def undrawn(tensor: Tensor, *_: object, **__: object) -> Tensor:
        if tensor.numel():
            tensor.data[(0,) * tensor.ndim] = torch.nan
        return tensor

    for name in DRAWN:
        monkeypatch.setattr(torch.nn.init, name, undrawn)
    with suppress(ImportError):  # transformers before 5 has no table of them
        from transformers.initialization import TORCH_INIT_FUNCTIONS

        for name in DRAWN:
            monkeypatch.setitem(TORCH_INIT_FUNCTIONS, name, undrawn)


DRAWN = ("kaiming_uniform_", "normal_", "trunc_normal_", "uniform_")


@pytest.mark.slow
@pytest.mark.usefixtures("weights_of_no_file_are_nan")
@pytest.mark.parametrize("name", NAMES)
def test_null_is_the_same_as_absent_or_refused_by_key(name: str, tmp_path: Path) -> None:
    config = config_of(name)
    for number, key in enumerate(keys_in(config)):
        null = outcome(name, tmp_path / f"{number}n", changed(config, key))
        if isinstance(null, str) and "config.json has " in null and key in null:
            continue
        absent = outcome(name, tmp_path / f"{number}a", changed(config, key, drop=True))
        if isinstance(null, Tensor):
            assert isinstance(absent, Tensor), (key, absent)
            assert torch.equal(null, absent), key
        else:
            assert null == absent, key


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ddpd_planner"])
def test_special_ids_outside_the_vocabulary_are_refused_by_key(name: str, tmp_path: Path) -> None:
    config = config_of(name)
    prefix = "text_config." if name == "diffusion_gemma" else ""
    columns = 10**6
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for i, value in enumerate((columns, [1, columns])):
            wrong = changed(config, prefix + key, value)
            message = outcome(name, tmp_path / f"{key}{i}", wrong)
            assert f"config.json has {prefix}{key}={columns}: must be from 0 to " in str(message)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"eos_token_id": [1, 10**6]}, "has eos_token_id=1000000: must be from 0 to "),
        ({"pad_token_id": -1}, "has pad_token_id=-1: must be from 0 to "),
        ({"mask_token_id": 10**6}, "has mask_token_id=1000000: must be from 0 to "),
        ({"bos_token_id": "one"}, "has bos_token_id='one': must be a token id"),
        ({"eos_token_id": [5, 6]}, "has eos_token_id=[5, 6], and config.json has text_config"),
        ({"pad_token_id": 7}, "has pad_token_id=7, and config.json has text_config.pad_token_id=0"),
    ],
)
def test_ids_of_the_generation_config_are_checked_as_those_of_the_config(
    ids: Config, message: str, tmp_path: Path
) -> None:
    config = config_of("diffusion_gemma")
    for key, value in (("eos_token_id", 1), ("pad_token_id", 0)):
        config = changed(config, f"text_config.{key}", value)
    folder = copied(NAMES["diffusion_gemma"], tmp_path / "model", config)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": [1, 5], "pad_token_id": 0, "bos_token_id": None}))
    assert AutoDenoiser.from_pretrained(folder).further_eos_ids == (5,)
    file.write_text(json.dumps(ids))
    with pytest.raises(CheckpointError) as caught:
        AutoDenoiser.from_pretrained(folder)
    assert f"generation_config.json {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "last"),
    [
        ("llada", {"vocab_size": 127}, 127),  # padded columns are legal: embedding_size is 128
        ("sedd_absorb", {}, 127),
        ("sedd_uniform", {}, 127),
        ("duo", {}, 127),
        ("dream", {}, 127),
        ("bd3lm", {}, 127),
    ],
)
def test_the_last_column_is_inside(name: str, change: Config, last: int, tmp_path: Path) -> None:
    config = {**config_of(name), **change}
    good = outcome(name, tmp_path / "good", {**config, "eos_token_id": last})
    assert isinstance(good, Tensor)
    wrong = outcome(name, tmp_path / "wrong", {**config, "eos_token_id": last + 1})
    assert f"eos_token_id={last + 1}: must be from 0 to {last}," in str(wrong)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llada_moe", {"num_hidden_layers": 1}, "num_hidden_layers=1 beside moe_layer_freq=[1, 1]"),
        ("llada_moe", {"num_experts_per_tok": 9}, "num_experts_per_tok=9 beside num_experts=8"),
        ("llada2_moe", {"n_group": 3}, "n_group=3 and topk_group=2 do not fit num_experts=8"),
        ("llada2_moe", {"topk_group": 5}, "topk_group=5 do not fit"),
        ("llada2_moe", {"num_experts_per_tok": 5}, "num_experts_per_tok=5, n_group=4 and"),
        ("llada", {"multi_query_attention": True}, "n_kv_heads=4 beside multi_query_attention="),
        (
            "llada",
            {"multi_query_attention": False, "n_kv_heads": 2},
            "n_kv_heads=2 beside multi_query_attention=False",
        ),
        ("llada", {"embedding_size": 127}, "embedding_size=127 beside vocab_size=128"),
        ("dream", {"hidden_act": "silux"}, "hidden_act='silux' is no function of transformers"),
        ("sdar", {"hidden_act": "silux"}, "hidden_act='silux' is no function of transformers"),
        ("sdar", {"rope_parameters": {"rope_theta": 5.0}}, "rope_theta=1000000 beside 5.0 in rope"),
        ("sdar", {"layer_types": ["full_attention"]}, "num_hidden_layers=2 beside 1 layer_types"),
        ("mdlm", {"hidden_dim": 32}, "hidden_dim=32 and model.hidden_size=64"),
        ("mdlm", {"model_length": 16}, "model_length=16 and model.length=32"),
        ("duo", {"n_blocks": 3}, "n_blocks=3 and model.n_blocks=2"),
        ("duo", {"vocab_size": 100}, "vocab_size=100 beside 128 embeddings"),
        ("duo", {"time_conditioning": False}, "time_conditioning=False beside algo.time_"),
        ("sedd_absorb", {"vocab_size": 100}, "vocab_size=100 beside tokens=127"),
    ],
)
def test_two_keys_of_one_thing_must_agree(
    name: str, change: Config, message: str, tmp_path: Path
) -> None:
    found = outcome(name, tmp_path / "changed", config_of(name) | change)
    assert "config.json has " in str(found)
    assert message in str(found)


@torch.no_grad()
def test_a_single_expert_of_llada2_keeps_its_score() -> None:
    """The released gate divides by the sum of the scores only where it chooses several."""
    from dlm_sampling.denoisers.families.llada2 import GroupedRouter

    folder = FIXTURES / "llada2_moe"
    for chosen in (1, 2):
        found: Any = AutoDenoiser.from_pretrained(folder, mask_token_id=126)
        (router, *_) = [part for part in found.module.modules() if isinstance(part, GroupedRouter)]
        router.choice = type(router.choice)(chosen, 1, 1, 2.5)
        x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
        weights, experts = router(x)
        scores = (x @ router.weight.T).sigmoid().gather(1, experts)
        wanted = scores if chosen == 1 else scores / scores.sum(1, keepdim=True)
        torch.testing.assert_close(weights, 2.5 * wanted)
