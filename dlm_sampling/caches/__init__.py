"""Hold the cache policies: which columns each pass computes, sees and stores."""

from typing import SupportsFloat

from dlm_sampling.caches.adaptive import AdaptiveCache
from dlm_sampling.caches.block import BlockCache
from dlm_sampling.caches.dkv import DkvCache
from dlm_sampling.caches.dllm import DLLMCache
from dlm_sampling.caches.dpad import DPadCache
from dlm_sampling.caches.dual import DualCache
from dlm_sampling.caches.policy import AnyPolicy, CachePolicy, Plan, PolicyBase, RefreshPolicy, View
from dlm_sampling.caches.prefix import PrefixCache
from dlm_sampling.caches.report import CacheReport, percentile
from dlm_sampling.caches.vicinity import VicinityCache
from dlm_sampling.errors import check_real, named, suggestion, unknown_choice

POLICIES = {
    policy.name: policy
    for policy in (
        BlockCache,
        PrefixCache,
        DualCache,
        VicinityCache,
        DkvCache,
        DPadCache,
        AdaptiveCache,
        DLLMCache,
    )
}
"""The policies by name."""


def policy_of(cache: str | AnyPolicy) -> AnyPolicy:
    """Return a policy, made with its default values where a name is given."""
    return POLICIES[cache]() if isinstance(cache, str) else cache


def check_cache_name(cache: object) -> None:
    """Refuse a `cache=` that is no policy, and none of the names.

    Raises:
        TypeError: it is neither a string nor a policy.
        ValueError: there is no policy of that name.
    """
    if not isinstance(cache, str | PolicyBase):
        raise TypeError(
            f"cache is {named(cache)}: must be {', '.join(map(repr, NAMES))}, or a "
            "policy of dlm_sampling.caches, such as VicinityCache(left=8)."
        )
    if isinstance(cache, str) and cache not in NAMES:
        raise unknown_choice("cache", cache, NAMES)


def check_audit(audit: object) -> None:
    """Refuse a `cache_audit=` that is neither "refresh" nor a share of passes.

    Raises:
        TypeError: it is no number and no string.
        ValueError: it is out of range.
    """
    if audit is None or (isinstance(audit, str) and audit == "refresh"):
        return
    hint = suggestion(audit, ("refresh",)) if isinstance(audit, str) else ""
    text = (
        f"cache_audit={audit!r}: must be the share of passes that are audited, in (0, 1], such as "
        f"0.25, 'refresh' for those before a refresh only, or None. {hint}"
    ).rstrip()
    if isinstance(audit, str):
        raise ValueError(text)
    try:
        check_real("cache_audit", audit)
    except TypeError:
        raise TypeError(text) from None
    if isinstance(audit, SupportsFloat) and not 0.0 < float(audit) <= 1.0:
        raise ValueError(text)


NAMES = ("auto", "none", *POLICIES)
"""What `cache=` takes by name."""

__all__ = [
    "POLICIES",
    "AdaptiveCache",
    "AnyPolicy",
    "BlockCache",
    "CachePolicy",
    "CacheReport",
    "DLLMCache",
    "DPadCache",
    "DkvCache",
    "DualCache",
    "Plan",
    "PolicyBase",
    "PrefixCache",
    "RefreshPolicy",
    "VicinityCache",
    "View",
    "percentile",
]
