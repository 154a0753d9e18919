"""What every native family promises: padding, full attention, a lossless checkpoint, gradients."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from dlm_sampling.denoisers import AutoDenoiser, Denoiser
from dlm_sampling.denoisers.checkpoints.weights import save_weights
from dlm_sampling.denoisers.networks.total_noise import total_noise

V, MASK, END = 40, 39, 38
FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"
Maker = Callable[..., Denoiser]


def some_ids(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_equals_the_row_alone(make: Maker, side: str) -> None:
    denoiser = make()
    assert denoiser.honours_padding
    lengths, width = (12, 7, 1), 12
    ids, mask = torch.full((3, width), END), torch.zeros(3, width, dtype=torch.long)
    rows = [some_ids(1, length, seed=length) for length in lengths]
    places = [slice(width - n, width) if side == "left" else slice(0, n) for n in lengths]
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        ids[i, place], mask[i, place] = row[0], 1
    together = denoiser.logits(ids, mask)
    assert together.isfinite().all()
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        torch.testing.assert_close(
            together[i, place], denoiser.logits(row)[0], atol=1e-5, rtol=1e-4
        )


@torch.no_grad()
def test_padding_without_the_mask_changes_the_logits(make: Maker) -> None:
    """Negative control: the comparison above would notice padding that is attended to."""
    denoiser, row = make(), some_ids(1, 7)
    padded = torch.cat((torch.full((1, 5), END), row), dim=1)
    assert (denoiser.logits(padded)[:, 5:] - denoiser.logits(row)).abs().max() > 1e-2


@torch.no_grad()
def test_attention_is_full_in_both_directions(make: Maker) -> None:
    denoiser, ids = make(), some_ids(1, 9)
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % V
    difference = (denoiser.logits(ids) - denoiser.logits(changed)).abs().amax(dim=-1)
    assert (difference > 1e-4).all()


@torch.no_grad()
def test_a_mask_of_ones_is_no_mask(make: Maker) -> None:
    denoiser, ids = make(), some_ids(2, 9)
    torch.testing.assert_close(denoiser.logits(ids, torch.ones_like(ids)), denoiser.logits(ids))


@torch.no_grad()
def test_a_row_of_padding_alone_gives_no_nan(make: Maker) -> None:
    ids = some_ids(2, 5)
    mask = torch.tensor([[1] * 5, [0] * 5])
    assert make().logits(ids, mask).isfinite().all()


def test_gradients_reach_every_weight(make: Maker) -> None:
    denoiser = make()
    denoiser.logits(some_ids(2, 6)).logsumexp(dim=-1).sum().backward()
    assert denoiser.module is not None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in denoiser.module.parameters())


@torch.no_grad()
def test_save_and_load_give_the_same_denoiser(make: Maker, tmp_path: Path, tokenizer: Any) -> None:
    saved, ids = make(tokenizer=tokenizer), some_ids(2, 9)
    saved.save_pretrained(tmp_path)
    loaded = AutoDenoiser.from_pretrained(tmp_path)
    assert torch.equal(loaded.logits(ids), saved.logits(ids))
    for fact in (
        "mask_token_id",
        "eos_token_id",
        "pad_token_id",
        "max_length",
        "vocab_size",
        "suppressed",
    ):
        assert getattr(loaded, fact) == getattr(saved, fact), fact
    assert loaded.eos_token_id == END
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.decode([1, 2]) == "upon a"
    assert loaded.tokenizer.mask_token_id == MASK
    saved.save_pretrained(tmp_path)
    assert torch.equal(loaded.logits(ids), saved.logits(ids)), "saving must not touch mapped files"


@torch.no_grad()
def test_sixteen_bit_checkpoints(make: Maker, tmp_path: Path, caplog: Any) -> None:
    saved, ids = make(), some_ids(1, 6)
    saved.save_pretrained(tmp_path, dtype="bfloat16")
    with caplog.at_level("INFO", "dlm_sampling"):
        assert AutoDenoiser.from_pretrained(tmp_path).dtype == torch.float32
    assert "widened to float32" in caplog.text
    kept = AutoDenoiser.from_pretrained(tmp_path, dtype="bfloat16")
    assert kept.dtype == torch.bfloat16
    wide = AutoDenoiser.from_pretrained(tmp_path).logits(ids)
    assert kept.logits(ids).dtype == torch.bfloat16
    assert (kept.logits(ids).float() - wide).abs().max() < 0.2 * wide.std()
    assert (saved.logits(ids) - wide).abs().max() < 0.2 * wide.std()
    with safe_open(tmp_path / "model.safetensors", "pt") as tensors:
        assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.bfloat16}  # noqa: SIM118


@torch.no_grad()
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_heads_tied_or_not_and_grouped_attention(
    llada: Maker, tmp_path: Path, tie: bool, kv_heads: int
) -> None:
    saved, ids = llada(tie=tie, kv_heads=kv_heads), some_ids(2, 9)
    saved.save_pretrained(tmp_path)
    assert (
        "model.transformer.ff_out.weight" in load_file(tmp_path / "model.safetensors")
    ) is not tie
    loaded = AutoDenoiser.from_pretrained(tmp_path)
    assert torch.equal(loaded.logits(ids), saved.logits(ids))
    assert loaded.num_parameters == saved.num_parameters
    model: Any = loaded.module
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tie


@torch.no_grad()
def test_shards_and_index(make: Maker, tmp_path: Path) -> None:
    saved, ids = make(), some_ids(2, 9)
    saved.save_pretrained(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    table = torch.nn.ParameterDict({name.replace(".", "/"): value for name, value in whole.items()})
    save_weights(table, tmp_path, lambda key: key.replace("/", "."), max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert torch.equal(AutoDenoiser.from_pretrained(tmp_path).logits(ids), saved.logits(ids))


def test_columns_beyond_the_vocabulary_are_suppressed(llada: Maker, tmp_path: Path) -> None:
    llada(used=37).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["vocab_size"], config["embedding_size"]) == (37, V)
    loaded = AutoDenoiser.from_pretrained(tmp_path)
    assert loaded.vocab_size == V
    assert loaded.suppressed == (37, 38, 39)


@pytest.mark.parametrize("folder", ["llada", "dream", "mdlm_hf"])
def test_saved_files_have_the_authors_names(folder: str, tmp_path: Path) -> None:
    """A checkpoint that goes through the library comes out as it came in."""
    AutoDenoiser.from_pretrained(FIXTURES / folder).save_pretrained(tmp_path)
    before, after = (
        load_file(place / "model.safetensors") for place in (FIXTURES / folder, tmp_path)
    )
    before.pop("backbone.rotary_emb.inv_freq", None)
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = (
        json.loads((place / "config.json").read_text()) for place in (FIXTURES / folder, tmp_path)
    )
    shared = set(old) & set(new)
    assert {key: old[key] for key in shared} == {key: new[key] for key in shared}
    assert {"vocab_size", "model_type", "architectures"} <= shared


@torch.no_grad()
def test_time_conditioning(mdlm: Maker, tmp_path: Path) -> None:
    ids = some_ids(2, 6)
    t = torch.tensor([0.1, 0.9], dtype=torch.float64)
    conditioned = mdlm(time_conditioned=True)
    network: Any = conditioned.module
    expected = network.output_layer.linear(network(ids, total_noise(t), torch.arange(6)[None]))
    torch.testing.assert_close(conditioned.logits(ids, t=t), expected)
    with pytest.raises(ValueError, match="t is missing"):
        conditioned(ids)
    conditioned.save_pretrained(tmp_path)
    assert AutoDenoiser.from_pretrained(tmp_path).time_conditioned
    blind = mdlm()
    assert torch.equal(blind.logits(ids, t=t), blind.logits(ids))
    assert (conditioned.logits(ids, t=t) - blind.logits(ids)).abs().max() > 1e-2


def test_log_linear_noise() -> None:
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    masked = 1 - torch.exp(-total_noise(t).double())
    torch.testing.assert_close(masked, (1 - 1e-3) * t, atol=1e-6, rtol=0)


def test_loading_leaves_the_global_generator_alone(make: Maker, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    AutoDenoiser.from_pretrained(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_causal_attention_backends_are_refused(llada: Maker) -> None:
    model: Any = llada().module
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="must be 'sdpa' or 'eager'"):
        type(llada())(model, mask_token_id=MASK)


@torch.no_grad()
def test_eager_attention_gives_the_same_logits(llada: Maker) -> None:
    denoiser, ids = llada(), some_ids(2, 9)
    mask = torch.tensor([[1] * 9, [0] * 3 + [1] * 6])
    fused = denoiser.logits(ids, mask)
    model: Any = denoiser.module
    model.config._attn_implementation = "eager"
    torch.testing.assert_close(denoiser.logits(ids, mask)[mask.bool()], fused[mask.bool()])


def test_a_folder_that_is_saved_to_again_holds_the_new_weights_only(
    make: Maker, tmp_path: Path
) -> None:
    old, ids = make(), some_ids(2, 9)
    assert old.module is not None
    sizes = ("5GB", "20kB", "9kB", "5GB")
    for number, size in enumerate(sizes):
        with torch.no_grad():
            next(old.module.parameters()).add_(0.1 * number)
        old.generation_defaults = {"sampler": "maskgit", "temperature": 0.1 * number}
        old.save_pretrained(tmp_path, max_shard_size=size)
        again = AutoDenoiser.from_pretrained(tmp_path)
        assert torch.equal(again.logits(ids), old.logits(ids))
        assert again.generation_defaults == old.generation_defaults
    assert [p.name for p in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
