"""Checkpoints with their own code: never run unasked, and never with lost tensors."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dlm_sampling.denoisers import AutoDenoiser, CheckpointError, Denoiser
from dlm_sampling.denoisers.checkpoints.checkpoint import Checkpoint
from dlm_sampling.denoisers.checkpoints.transformers_compat import old_names
from dlm_sampling.denoisers.remote_code import check_tensors, fetch_code

V, MASK = 40, 39

CONFIGURATION = """
from pathlib import Path
from transformers import PretrainedConfig

Path({marker!r}).touch()


class OddConfig(PretrainedConfig):
    model_type = "oddball"

    def __init__(
        self, vocab_size=40, hidden_size=32, num_attention_heads=4, rope_theta=100.0, **kwargs
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.rope_theta = rope_theta
        super().__init__(**kwargs)
"""

MODELLING = """
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils import is_torch_fx_available

from .configuration_odd import OddConfig


class Rotary(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.rope_init_fn = ROPE_INIT_FUNCTIONS["default"]
        frequencies, self.scaling = self.rope_init_fn(config, None)
        self.register_buffer("inv_freq", frequencies, persistent=False)

    def forward(self, x):
        angles = torch.arange(x.shape[-2], device=x.device)[:, None] * self.inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        first, second = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()


class OddModel(PreTrainedModel):
    config_class = OddConfig
    _tied_weights_keys = ["head.weight"]

    def __init__(self, config):
        super().__init__(config)
        d = config.hidden_size
        self.heads = config.num_attention_heads
        self.embed = nn.Embedding(config.vocab_size, d)
        self.rotary = Rotary(config)
        self.qkv = nn.Linear(d, 3 * d)
        self.head = nn.Linear(d, config.vocab_size, bias=False)
        self.scales = torch.linspace(0.5, 1.5, d)
        {extra}
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids) * self.scales
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v)
        logits = self.head(x + mixed.transpose(1, 2).flatten(-2))
        assert not self.config.use_cache
        return MaskedLMOutput(logits=logits)
"""


def expected_logits(tensors: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """The same network, written out."""
    x = tensors["embed.weight"][ids] * torch.linspace(0.5, 1.5, 32)
    qkv = x @ tensors["qkv.weight"].T + tensors["qkv.bias"]
    q, k, v = qkv.unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
    angles = torch.arange(ids.shape[1])[:, None] * 100.0 ** (-torch.arange(0, 8, 2) / 8)
    turn = torch.polar(torch.ones_like(angles), angles)
    q, k = (torch.complex(part[..., :4], part[..., 4:]) * turn for part in (q, k))
    weights = (torch.einsum("bhid,bhjd->bhij", q, k.conj()).real / 8**0.5).softmax(dim=-1)
    mixed = (weights @ v).transpose(1, 2).flatten(-2)
    return (x + mixed) @ tensors.get("head.weight", tensors["embed.weight"]).T


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "the code ran"


def write(
    folder: Path, marker: Path, tie: bool = False, extra: str = ""
) -> dict[str, torch.Tensor]:
    """A checkpoint in the form in which such models are published; returns its tensors."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "embed.weight": (V, 32),
        "qkv.weight": (96, 32),
        "qkv.bias": (96,),
        "head.weight": (V, 32),
    }
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()
    }
    if tie:
        del tensors["head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "oddball",
        "architectures": ["OddModel"],
        "auto_map": {
            "AutoConfig": "configuration_odd.OddConfig",
            "AutoModel": "modeling_odd.OddModel",
        },
        "vocab_size": V,
        "mask_token_id": MASK,
        "tie_word_embeddings": tie,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_odd.py").write_text(CONFIGURATION.format(marker=str(marker)))
    (folder / "modeling_odd.py").write_text(MODELLING.replace("{extra}", extra))
    return tensors


def load(folder: Path, **options: Any) -> Denoiser:
    return AutoDenoiser.from_pretrained(folder, trust_remote_code=True, **options)


def test_without_the_flag_no_code_runs(tmp_path: Path, marker: Path) -> None:
    write(tmp_path / "odd_unasked", marker)
    with pytest.raises(CheckpointError, match=r"needs its own Python code \(modeling_odd.py\)"):
        AutoDenoiser.from_pretrained(tmp_path / "odd_unasked")
    assert not marker.exists()


@torch.no_grad()
@pytest.mark.parametrize("tie", [False, True])
def test_logits_are_those_of_the_network_written_out(
    tmp_path: Path, marker: Path, tie: bool, caplog: Any
) -> None:
    tensors = write(tmp_path / f"odd_{tie}", marker, tie=tie)
    before = torch.get_rng_state()
    with caplog.at_level("WARNING", "dlm_sampling"):
        denoiser = load(tmp_path / f"odd_{tie}")
    assert torch.equal(before, torch.get_rng_state())
    assert marker.exists()
    assert "modeling_odd.py sha256" in caplog.text
    ids = torch.randint(0, V, (2, 11), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        denoiser.logits(ids), expected_logits(tensors, ids), atol=1e-5, rtol=1e-4
    )
    assert (denoiser.mask_token_id, denoiser.vocab_size) == (MASK, V)
    assert not denoiser.honours_padding
    assert denoiser.num_parameters == sum(value.numel() for value in tensors.values())


@torch.no_grad()
def test_facts_that_a_config_does_not_tell_can_be_given(tmp_path: Path, marker: Path) -> None:
    tensors = write(tmp_path / "odd_facts", marker)
    denoiser = load(tmp_path / "odd_facts", shifted=True, honours_padding=True, max_length=12)
    ids = torch.arange(8)[None]
    plain = expected_logits(tensors, ids)
    shifted = torch.cat((plain[:, :1], plain[:, :-1]), dim=1)
    torch.testing.assert_close(denoiser.logits(ids), shifted, atol=1e-5, rtol=1e-4)
    assert (denoiser.honours_padding, denoiser.max_length) == (True, 12)


@torch.no_grad()
def test_sixteen_bit_weights_leave_the_buffers_exact(tmp_path: Path, marker: Path) -> None:
    write(tmp_path / "odd_half", marker)
    model: Any = load(tmp_path / "odd_half", dtype="bfloat16").module
    assert model.embed.weight.dtype == torch.bfloat16
    assert model.rotary.inv_freq.dtype == torch.float32


def test_missing_weights_are_refused(tmp_path: Path, marker: Path) -> None:
    tensors = write(tmp_path / "odd_missing", marker)
    del tensors["qkv.bias"]
    save_file(tensors, tmp_path / "odd_missing" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensors are missing, first qkv\.bias"):
        load(tmp_path / "odd_missing")


def test_a_tensor_without_data_is_refused(tmp_path: Path, marker: Path) -> None:
    write(tmp_path / "odd_meta", marker, extra="self.table = torch.ones(3, device='meta')")
    with pytest.raises(CheckpointError, match="table got no data"):
        load(tmp_path / "odd_meta")


@pytest.mark.parametrize(
    "damage",
    [
        "torch.zeros(4)",
        "torch.tensor([1.2e-38, 0.0, 9e-44, 0.0])",
        "torch.full((4,), float('nan'))",
    ],
)
def test_damaged_frequencies_are_refused(tmp_path: Path, marker: Path, damage: str) -> None:
    """The values that building on the meta device leaves behind."""
    folder = tmp_path / f"odd_damaged_{len(damage)}"
    write(folder, marker, extra=f"self.rotary.inv_freq = {damage}")
    with pytest.raises(CheckpointError, match=r"rotary\.inv_freq are damaged"):
        load(folder)


def test_check_accepts_a_sound_module() -> None:
    module = torch.nn.Module()
    module.register_buffer("inv_freq", 10000.0 ** -torch.linspace(0, 0.9, 8), persistent=False)
    check_tensors(module, "sound")


def test_code_that_fails_names_the_reason(tmp_path: Path, marker: Path) -> None:
    write(tmp_path / "odd_fails", marker, extra="raise KeyError('default')")
    with pytest.raises(CheckpointError, match=r"fails on this transformers: KeyError: 'default'"):
        load(tmp_path / "odd_fails")


def test_code_that_needs_an_absent_package(tmp_path: Path, marker: Path) -> None:
    write(tmp_path / "odd_import", marker)
    file = tmp_path / "odd_import" / "modeling_odd.py"
    file.write_text("import no_such_package_of_ours\n" + file.read_text())
    with pytest.raises(CheckpointError, match="no_such_package_of_ours"):
        load(tmp_path / "odd_import")


def test_code_that_is_elsewhere_is_not_fetched(tmp_path: Path, marker: Path) -> None:
    folder = tmp_path / "odd_elsewhere"
    write(folder, marker)
    (folder / "modeling_odd.py").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "someone/else--modeling_odd.OddModel"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="not in the checkpoint, but in 'someone/else'"):
        load(folder)


@pytest.mark.parametrize("revision", [None, "main", "abc123"])
def test_code_from_the_hub_must_be_pinned(tmp_path: Path, revision: str | None) -> None:
    snapshot = Checkpoint("org/model", tmp_path / ("0" * 40), {})
    with pytest.raises(CheckpointError, match="pin what you have read with revision=<40 hex"):
        fetch_code(snapshot, revision, {})


def test_a_constructor_that_reads_its_weights_is_refused(tmp_path: Path, marker: Path) -> None:
    """What it would read is not the checkpoint's."""
    folder = tmp_path / "odd_reads"
    write(folder, marker, extra="self.first = float(self.embed.weight[0, 0].detach())")
    with pytest.raises(CheckpointError, match="its code fails"):
        load(folder)
    write(
        tmp_path / "odd_copies", marker, extra="self.first = self.embed.weight[0].detach().clone()"
    )
    with pytest.raises(CheckpointError, match="first got no data"):
        load(tmp_path / "odd_copies")


def test_old_names_are_restored_on_request_and_only_where_missing() -> None:
    from transformers import cache_utils, utils
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    before = {name: ROPE_INIT_FUNCTIONS[name] for name in ROPE_INIT_FUNCTIONS}
    window = getattr(cache_utils, "SlidingWindowCache", None)
    old_names()
    after: Any = ROPE_INIT_FUNCTIONS
    assert {name: after[name] for name in before} == before
    assert window in (None, cache_utils.SlidingWindowCache)  # type: ignore[attr-defined]
    assert hasattr(utils, "LossKwargs")
    assert "flash_attn" not in sys.modules
