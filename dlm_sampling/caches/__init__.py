"""Hold the cache policies: which columns each pass computes, sees and stores."""

from dlm_sampling.caches.block import BlockCache as BlockCache
from dlm_sampling.caches.dkv import DkvCache as DkvCache
from dlm_sampling.caches.dual import DualCache as DualCache
from dlm_sampling.caches.policy import AnyPolicy as AnyPolicy
from dlm_sampling.caches.policy import CachePolicy as CachePolicy
from dlm_sampling.caches.policy import Plan as Plan
from dlm_sampling.caches.policy import PolicyBase as PolicyBase
from dlm_sampling.caches.policy import View as View
from dlm_sampling.caches.prefix import PrefixCache as PrefixCache
from dlm_sampling.caches.vicinity import VicinityCache as VicinityCache
from dlm_sampling.errors import unknown_choice

POLICIES = {
    policy.name: policy for policy in (BlockCache, PrefixCache, DualCache, VicinityCache, DkvCache)
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
            f"cache is a {type(cache).__name__}: must be {', '.join(map(repr, NAMES))}, or a "
            "policy of dlm_sampling.caches, such as VicinityCache(before=8)."
        )
    if isinstance(cache, str) and cache not in NAMES:
        raise unknown_choice("cache", cache, NAMES)


NAMES = ("auto", "none", *POLICIES)
"""What `cache=` takes by name."""
