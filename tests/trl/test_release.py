"""A missing or an untested TRL is told in one line."""

from __future__ import annotations

import pytest

from dlm_sampling.trl import release
from dlm_sampling.trl.release import TESTED, check_release, grpo_trainer


def test_tested_releases_pass_and_others_are_named() -> None:
    check_release(f"{TESTED}.0")
    check_release(f"{TESTED}.7")
    for other in ("1.15.2", "1.17.0", "0.29.1", "2.16.0"):
        with pytest.raises(ImportError, match=rf"TRL {other} is installed.*'trl=={TESTED}\.\*'"):
            check_release(other)


def test_a_missing_trl_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "installed", lambda: None)
    grpo_trainer.cache_clear()
    with pytest.raises(
        ImportError, match=r"^TRL is not installed: pip install 'dlm-sampling\[rl\]'"
    ):
        grpo_trainer()
