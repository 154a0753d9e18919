"""MAUVE equals the package called directly, on features and from texts."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest
import torch
from dlm_eval.data import passages
from dlm_eval.judges.causal import CausalJudge
from dlm_eval.judges.mauve import mauve, mauve_of_features

from dlm_sampling.errors import UsageError

RNG = np.random.default_rng(0)
PEOPLE = RNG.normal(size=(60, 8)).astype(np.float32)
MODEL = (RNG.normal(size=(60, 8)) + 0.8).astype(np.float32)


@pytest.fixture(scope="module")
def package() -> ModuleType:
    """The package; its import takes seconds, which every worker that collects would pay."""
    importlib.import_module("mauve.utils")
    return importlib.import_module("mauve")


def test_it_is_the_package_called_directly(package: ModuleType) -> None:
    found = mauve_of_features(MODEL, PEOPLE, seeds=(25, 3))
    for seed, value in zip(found.seeds, found.values, strict=True):
        direct = package.compute_mauve(p_features=PEOPLE, q_features=MODEL, seed=seed)
        assert value == direct.mauve
        assert found.buckets == direct.num_buckets == 6
    assert found.mean == np.mean(found.values)
    assert found.spread == np.std(found.values, ddof=1)
    assert mauve_of_features(PEOPLE, PEOPLE, seeds=(25,)).mean > 0.99
    assert found.mean < 0.9


def test_features_of_texts_are_those_of_the_package(package: ModuleType) -> None:
    judge = CausalJudge.from_pretrained("own")
    texts = [text[: 30 + 5 * i] for i, text in enumerate(passages(9, 120))]
    ids = [torch.tensor([row]) for row in judge.encode(texts)]
    direct = package.utils.featurize_tokens_from_model(judge.model, ids, 4)
    np.testing.assert_allclose(judge.features(texts), direct, atol=2e-4)


def test_a_function_makes_the_features() -> None:
    rows = {str(i): np.concatenate((PEOPLE, MODEL))[i] for i in range(120)}
    names = list(rows)

    def look_up(texts: list[str]) -> np.ndarray:
        return np.stack([rows[text] for text in texts])

    found = mauve(names[60:], names[:60], featuriser=look_up, seeds=(25,))
    assert found == mauve_of_features(MODEL, PEOPLE, seeds=(25,))


def test_counts_must_agree_and_suffice() -> None:
    with pytest.raises(ValueError, match="60 texts and 59 references: the counts must be equal"):
        mauve_of_features(MODEL, PEOPLE[1:])
    with pytest.raises(ValueError, match="2 texts and 1 references"):
        mauve(["a", "b"], ["a"], featuriser="no such model")
    with pytest.raises(ValueError, match="at least 20"):
        mauve_of_features(MODEL[:19], PEOPLE[:19])
    with pytest.raises(ValueError, match="seeds"):
        mauve_of_features(MODEL, PEOPLE, seeds=())


def test_faiss_is_quiet(package: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    mauve_of_features(MODEL, PEOPLE, seeds=(25,))
    assert capfd.readouterr().err == ""
    package.compute_mauve(p_features=PEOPLE, q_features=MODEL)
    assert "WARNING clustering" in capfd.readouterr().err  # the package alone is not


def test_without_the_package_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mauve", None)
    with pytest.raises(UsageError, match="mauve-text"):
        mauve_of_features(MODEL, PEOPLE)
