import math
from collections import Counter

import numpy as np
import pytest
from dlm_eval.judges.ngram import NGramJudge

V = 7


def documents(seed=0, count=5, length=60):
    """A skewed first-order chain, so that histories matter and some were never seen."""
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(V, 0.4), size=V)
    out = []
    for _ in range(count):
        doc = [int(rng.integers(V))]
        for _ in range(length - 1):
            doc.append(int(rng.choice(V, p=rows[doc[-1]])))
        out.append(doc)
    return out


def brute_force(docs, order, discount, context, token):
    """The recursion of the docstring, from plain dictionaries."""
    prob = 1.0 / V
    for k in range(1, min(order, len(context) + 1) + 1):
        grams = Counter(tuple(doc[i : i + k]) for doc in docs for i in range(len(doc) - k + 1))
        history = tuple(context[len(context) - (k - 1) :])
        follow = {gram[-1]: n for gram, n in grams.items() if gram[:-1] == history}
        total = sum(follow.values())
        if total:
            prob = (
                max(follow.get(token, 0) - discount, 0) / total
                + discount * len(follow) / total * prob
            )
    return prob


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_matches_the_recursion_computed_by_dictionaries(order):
    docs = documents()
    judge = NGramJudge.fit(docs, order=order, vocab_size=V)
    ids = [0, 3, 3, 6, 1, 2, 5, 5, 5, 0, 4]
    expected = [math.log(brute_force(docs, order, 0.75, ids[:i], ids[i])) for i in range(len(ids))]
    np.testing.assert_allclose(judge.log_probs(ids), expected, atol=1e-12)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_every_distribution_sums_to_one_and_agrees_with_log_probs(order):
    judge = NGramJudge.fit(documents(), order=order, vocab_size=V)
    rng = np.random.default_rng(1)
    for _ in range(50):
        context = rng.integers(V, size=rng.integers(0, 7))
        law = judge.distribution(context)
        assert law.min() > 0
        assert abs(law.sum() - 1) < 1e-12
        token = int(rng.integers(V))
        assert abs(math.log(law[token]) - judge.log_probs([*context, token])[-1]) < 1e-12


def test_an_n_gram_never_spans_two_documents():
    judge = NGramJudge.fit([[0, 1], [2, 3]], order=2, vocab_size=4)
    # 1 was never followed by anything, so the unigram law answers.
    np.testing.assert_allclose(judge.distribution([1]), judge.distribution([]))


def test_is_better_than_uniform_and_order_helps_on_unseen_text_of_the_same_law():
    docs = documents(count=30, length=200)
    held = documents(count=31, length=200)[-1]
    losses = [-NGramJudge.fit(docs, order=n, vocab_size=V).log_probs(held).mean() for n in (1, 2)]
    assert losses[1] < losses[0] < math.log(V)


def test_bits_per_char_is_the_log_loss_over_characters():
    judge = NGramJudge.fit(documents(), order=2, vocab_size=V)
    ids = [0, 1, 2, 3]
    assert judge.bits_per_char(ids, 10) == pytest.approx(
        -judge.log_probs(ids).sum() / math.log(2) / 10
    )
    with pytest.raises(ValueError, match="characters=0"):
        judge.bits_per_char(ids, 0)


def test_perplexity_is_per_token_and_tells_the_law_from_noise():
    docs = documents(count=20, length=200)
    judge = NGramJudge.fit(docs, order=2, vocab_size=V)
    one, two = [0, 1, 2], [3]
    logs = np.concatenate([judge.log_probs(one), judge.log_probs(two)])
    assert judge.perplexity([one, two]) == pytest.approx(math.exp(-logs.mean()))
    noise = np.random.default_rng(0).integers(V, size=(20, 200))
    assert judge.perplexity(documents(count=21, length=200)[-1:]) < judge.perplexity(list(noise))
    assert math.isnan(judge.perplexity([]))


def test_saving_and_loading_changes_nothing(tmp_path):
    judge = NGramJudge.fit(documents(), order=4, vocab_size=V)
    judge.save(tmp_path / "judge.npz")
    again = NGramJudge.load(tmp_path / "judge.npz")
    ids = documents(seed=2, count=1)[0]
    assert again.order == 4
    np.testing.assert_array_equal(again.log_probs(ids), judge.log_probs(ids))


def test_a_file_that_is_no_judge_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="not a saved n-gram judge"):
        NGramJudge.load(tmp_path / "other.npz")
    np.savez(
        tmp_path / "pickle.npz", keys_0=np.array([{}], dtype=object), vocab_size=1, discount=0.5
    )
    with pytest.raises(ValueError, match="allow_pickle"):
        NGramJudge.load(tmp_path / "pickle.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 0}, "order=0"),
        ({"discount": 1.5}, "discount=1.5"),
        ({"documents": []}, "no tokens"),
        ({"documents": [[0, V]]}, rf"\[0, {V}\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    arguments = {"documents": [[0, 1]], "order": 2, "vocab_size": V} | arguments
    docs = arguments.pop("documents")
    with pytest.raises(ValueError, match=message):
        NGramJudge.fit(docs, **arguments)
