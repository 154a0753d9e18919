"""Whether the hub is there is asked once; without it the cache alone is read, at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from huggingface_hub import constants

from dlm_sampling import AutoDenoiser
from dlm_sampling.denoisers.checkpoints.checkpoint import CheckpointError
from dlm_sampling.denoisers.checkpoints.reach import (
    hub_in_reach,
    is_hub_name,
    why_out_of_reach,
)
from dlm_sampling.errors import UsageError
from dlm_sampling.jobs import read_prompts

CLOSED = "http://127.0.0.1:9"  # no service listens at the discard port


class Answers(BaseHTTPRequestHandler):
    """Answers with the number that the path names."""

    def do_HEAD(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    found = HTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


def test_whoever_answers_is_there(server: str) -> None:
    for code in (200, 401, 404, 503):
        assert why_out_of_reach(f"{server}/{code}") is None
    assert (why_out_of_reach(CLOSED) or "").startswith(f"{CLOSED} cannot be reached (")


def test_the_cache_alone_is_read_while_the_hub_is_away(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    with pytest.raises(KeyError), hub_in_reach() as reason:
        assert reason is not None and constants.HF_HUB_OFFLINE
        raise KeyError
    assert not constants.HF_HUB_OFFLINE
    with hub_in_reach(asked=False) as reason:
        assert reason is None and not constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "ENDPOINT", f"{server}/200")
    with hub_in_reach() as reason:
        assert reason is None and not constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub_in_reach() as reason:
        assert reason == "HF_HUB_OFFLINE is set"
    assert constants.HF_HUB_OFFLINE


def test_names_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    before = time.monotonic()
    with pytest.raises(CheckpointError, match=r"'org/model'.*127\.0\.0\.1:9 cannot be reached"):
        AutoDenoiser.from_pretrained("org/model")
    with pytest.raises(UsageError, match=r"org/texts: is no file, and .* cannot be reached"):
        read_prompts("org/texts")
    assert time.monotonic() - before < 10  # seconds; the libraries try for a minute


def test_paths_are_no_names() -> None:
    names = {
        name: is_hub_name(name) for name in ("gpt2", "org/a.b-c", "./a", "/a/b", "a/", "a/b/c")
    }
    assert [name for name, value in names.items() if value] == ["gpt2", "org/a.b-c"]
