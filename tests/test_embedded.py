import re

import pytest
import torch

from dlm_sampling import AutoDenoiser, generate
from dlm_sampling.embedded import embedded_models, embedded_path
from dlm_sampling.testing.sudoku import CELLS, MASK, SudokuOracle, all_grids, is_valid, parse


@pytest.fixture(scope="module")
def sudoku():
    return AutoDenoiser.from_pretrained(embedded_path("sudoku4x4"))


@pytest.fixture(scope="module")
def uniform():
    return AutoDenoiser.from_pretrained("tiny-books-uniform")


def test_names_lead_to_folders():
    assert {"sudoku4x4", "tiny-books", "tiny-books-uniform"} <= set(embedded_models())
    for name in embedded_models():
        assert (embedded_path(name) / "config.json").is_file()
        assert list(embedded_path(name).glob("*.safetensors"))


def test_an_unknown_name_lists_the_models():
    with pytest.raises(ValueError, match=re.escape("sudoku4x4")):
        embedded_path("sudoku")


def test_the_sudoku_model_is_small_16_bit_and_widened_on_a_cpu(sudoku):
    assert sum(f.stat().st_size for f in embedded_path("sudoku4x4").iterdir()) < 1_000_000
    assert sudoku.dtype == torch.float32
    assert (sudoku.vocab_size, sudoku.mask_token_id, sudoku.max_length) == (5, MASK, CELLS)


def test_the_sudoku_model_is_close_to_the_oracle(sudoku):
    rng = torch.Generator().manual_seed(3)
    x = all_grids()[torch.randint(288, (2000,), generator=rng)]
    masked = torch.rand(x.shape, generator=rng) < torch.rand(len(x), 1, generator=rng)
    canvas = x.masked_fill(masked, MASK)
    p = SudokuOracle().probs(canvas)[..., :4]
    with torch.no_grad():
        log_q = sudoku.logits(canvas)[..., :4].double().log_softmax(dim=-1)
    kl = -(p * log_q).sum(dim=-1) - torch.special.entr(p).sum(dim=-1)
    assert float(kl[masked].mean()) < 0.03  # the uniform guess has 0.7


def test_the_sudoku_model_fills_grids_written_as_text(sudoku):
    clues = "1.../..3./.2../...4"
    out = generate(sudoku, [clues, "." * 16], sampler="llada", temperature=1.0, seed=0)
    solved = torch.stack([parse(text) for text in out.texts])
    assert bool(is_valid(solved).all())
    given = parse(clues) != MASK
    assert torch.equal(solved[0][given], parse(clues)[given])
    free = generate(sudoku, num_return_sequences=200, sampler="llada", temperature=1.0, seed=1)
    assert float(is_valid(torch.stack([parse(t) for t in free.texts])).float().mean()) > 0.95


def test_the_uniform_model_is_duos_kind_small_and_shares_the_tokenizer(uniform):
    folder = embedded_path("tiny-books-uniform")
    assert sum(f.stat().st_size for f in folder.iterdir()) < 6_500_000
    assert (uniform.family, uniform.kind, uniform.dtype) == ("duo", "leave_one_out", torch.float32)
    assert (uniform.process.name, uniform.mask_token_id) == ("uniform", None)
    assert (uniform.vocab_size, uniform.max_length, uniform.time_conditioned) == (4096, 128, True)
    shared = embedded_path("tiny-books") / "tokenizer.json"
    assert (folder / "tokenizer.json").read_bytes() == shared.read_bytes()
    assert uniform.tokenizer("Once upon")["input_ids"][-1] < 4093  # the last three are special


TALE = (
    "Once upon a time there was a king who had a daughter. She went into the forest, and there she "
    "met an old woman, who said to her: give me something to eat, and I will tell you where the "
    "golden bird is."
)


def laws_of(model, canvas, level):
    with torch.no_grad():
        t = torch.full((len(canvas),), level, dtype=torch.float64)
        return model.logits(canvas, t=t).log_softmax(dim=-1)


def test_the_uniform_model_reads_the_clean_tokens_through_the_noise(uniform):
    rng = torch.Generator().manual_seed(0)
    x = torch.tensor([uniform.tokenizer(TALE)["input_ids"]]).expand(32, -1)
    nats = []
    for level in (0.1, 0.3, 0.6, 0.999):
        replaced = torch.rand(x.shape, generator=rng) < level
        noise = torch.randint(uniform.vocab_size, x.shape, generator=rng)
        log_p = laws_of(uniform, torch.where(replaced, noise, x), level)
        nats.append(-float(log_p.gather(-1, x[..., None]).squeeze(-1)[replaced].mean()))
    assert nats == sorted(nats)
    assert nats[0] < 3.0 < 5.0 < nats[-1] < 7.0  # the uniform guess has 8.3


def test_the_uniform_model_leaves_one_out(uniform):
    """Its law at a position follows the neighbour, and hardly the token that stands there."""
    rng = torch.Generator().manual_seed(1)
    rows = torch.arange(64)
    x = torch.tensor([uniform.tokenizer(TALE)["input_ids"]]).repeat(64, 1)
    i = torch.randint(2, x.shape[1], rows.shape, generator=rng)

    def law_after(shift):
        y = x.clone()
        y[rows, i - shift] = torch.randint(uniform.vocab_size, rows.shape, generator=rng)
        return laws_of(uniform, y, 0.3)[rows, i].exp()

    before = laws_of(uniform, x, 0.3)[rows, i].exp()
    own, left = ((before - law_after(k)).abs().sum(-1).mean() / 2 for k in (0, 1))
    assert float(own) < 0.15 < 0.3 < float(left)
