import math

import numpy as np
import pytest
from dlm_eval.judges.diversity import distinct_n, repeat_rate, unigram_entropy


def test_unigram_entropy_of_known_frequencies():
    assert unigram_entropy([[5, 5, 5, 5]]) == 0
    assert unigram_entropy([list(range(8))]) == pytest.approx(math.log(8))
    # A mean over samples: pooling the two would give ln 2.
    assert unigram_entropy([np.array([1, 1]), np.array([2, 2])]) == 0


def test_distinct_n_pools_the_samples():
    assert distinct_n([[1, 2, 3], [1, 2, 4]], n=2) == pytest.approx(3 / 4)
    assert distinct_n([[1, 2, 3]], n=1) == 1


def test_repeat_rate_is_within_a_sample():
    assert repeat_rate([[1, 2, 1, 2, 1, 2]], n=2) == pytest.approx(1 - 2 / 5)
    assert repeat_rate([[1, 2, 3, 4], [1, 2, 3, 4]], n=2) == 0


def test_a_loop_looks_worse_than_text():
    rng = np.random.default_rng(0)
    text, loop = [rng.integers(500, size=64)], [np.tile([3, 1, 4, 1], 16)]
    assert unigram_entropy(loop) < unigram_entropy(text)
    assert distinct_n(loop) < distinct_n(text)
    assert repeat_rate(loop) > 0.9 > repeat_rate(text)


@pytest.mark.parametrize("measure", [unigram_entropy, distinct_n, repeat_rate])
def test_nothing_to_measure_is_nan(measure):
    assert math.isnan(measure([[]]))


def test_n_must_be_positive():
    with pytest.raises(ValueError, match="n=0"):
        distinct_n([[1, 2]], n=0)
