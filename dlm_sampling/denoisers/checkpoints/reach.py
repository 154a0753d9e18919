"""Ask once whether the Hugging Face hub can be reached, before its libraries try for a minute.

Without network they ask for every file of a model five times, with longer and longer pauses.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPException
from importlib import import_module
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
PATIENCE = 5.0  # seconds


def is_hub_name(name: str) -> bool:
    """Return whether a name can be one of the hub, such as gpt2 or org/model; a path cannot."""
    return HUB_ID.fullmatch(name) is not None


@contextmanager
def hub_in_reach(*, asked: bool = True) -> Generator[str | None]:
    """Let what is loaded inside come from the cache alone where the hub cannot be reached.

    Args:
        asked: False for what lies in a folder; nothing is done then.

    Yields:
        Why it cannot, None where it can.
    """
    if not asked:
        yield None
        return
    constants: Any = import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        yield "HF_HUB_OFFLINE is set"
        return
    reason = why_out_of_reach(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = reason is not None
    try:
        yield reason
    finally:
        constants.HF_HUB_OFFLINE = False


def why_out_of_reach(address: str) -> str | None:
    """Ask a server for its first page, once; return why it does not answer, None if it does."""
    try:
        urlopen(Request(address, method="HEAD"), timeout=PATIENCE).close()
    except (HTTPError, HTTPException):
        return None  # it answers
    except OSError as error:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, ssl.SSLError):
            return None  # it is there; the hub's own client may know its certificate
        return f"{address} cannot be reached ({cause})"
    return None
