"""A denoiser goes to the hub in one commit; a server on this machine stands for the hub."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest
import torch

from dlm_sampling import AutoDenoiser, Denoiser, generate, wrap

REPOSITORY = "someone/small"
URL = f"https://huggingface.co/{REPOSITORY}"
# What the library asks for on its own, without a token: once in a process, unless a file of the
# last 24 hours in the user's cache has the answer.
HARNESSES = "/api/agent-harnesses"


class Hub(BaseHTTPRequestHandler):
    """Answer the calls of one push as the hub does; files of the repository are kept by name."""

    files: ClassVar[dict[str, bytes]]
    calls: ClassVar[list[tuple[str, Any]]]
    tokens: ClassVar[set[str | None]]

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == HARNESSES:
            return self.answer({})
        self.tokens.add(self.headers.get("authorization"))
        if "/tree/" in self.path:
            found = {"type": "file", "oid": "0"}
            entries = [found | {"path": n, "size": len(v)} for n, v in self.files.items()]
            return self.answer(entries)
        siblings = [{"rfilename": name} for name in self.files]
        return self.answer({"id": REPOSITORY, "sha": "0" * 40, "siblings": siblings, "tags": []})

    def do_POST(self) -> None:
        self.tokens.add(self.headers.get("authorization"))
        sent = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.partition("?")[0]
        self.calls.append((self.path, sent))
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.answer({"url": URL, "id": "1"})
        if "/branch/" in path:
            return self.answer({})
        if "/preupload/" in path:
            given = json.loads(sent)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in given
            ]
            return self.answer({"files": modes})
        assert "/commit/" in path, path
        for line in map(json.loads, sent.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.files[value["path"]]
        done = {"commitUrl": f"{URL}/commit/1", "commitOid": "1", "hookOutput": "", "success": True}
        if "create_pr" in self.path:
            done["pullRequestUrl"] = f"{URL}/discussions/1"
        return self.answer(done)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    Hub.files, Hub.calls, Hub.tokens = {}, [], set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    kept = str(tmp_path / "harnesses.json")  # and not in the user's cache
    monkeypatch.setattr(huggingface_hub.constants, "AGENT_HARNESSES_PATH", kept, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()  # which keeps the proxies that it was opened with
    yield Hub
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


def commits(hub: type[Hub]) -> list[list[dict[str, Any]]]:
    return [
        [json.loads(line) for line in sent.splitlines()]
        for path, sent in hub.calls
        if "/commit/" in path
    ]


@pytest.fixture
def tiny(tiny_llada: Path) -> Denoiser:
    return AutoDenoiser.from_pretrained(tiny_llada)


def test_what_is_pushed_loads_again(hub: type[Hub], tiny: Denoiser, tmp_path: Path) -> None:
    tiny.generation_defaults = {"sampler": "remdm-cap", "sampler_options": {"eta": 0.05}}
    found = tiny.push_to_hub(
        REPOSITORY, token="hf_secret", commit_message="First", tags=["books"], max_shard_size="4kB"
    )
    assert found.commit_url.endswith(f"{REPOSITORY}/commit/1")
    assert hub.tokens == {"Bearer hf_secret"}
    assert [c[0]["value"]["summary"] for c in commits(hub)] == ["First"], "one commit"
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    again = AutoDenoiser.from_pretrained(tmp_path)
    ids = torch.arange(12).reshape(2, 6)
    assert torch.equal(again.logits(ids), tiny.logits(ids))
    runs = [generate(model, "ab", max_new_tokens=4, seed=1) for model in (again, tiny)]
    assert runs[0].token_ids == runs[1].token_ids
    assert again.generation_defaults == tiny.generation_defaults
    card = hub.files["README.md"].decode()
    assert "library_name: dlm_sampling" in card
    assert "- books" in card
    assert f'from_pretrained("{REPOSITORY}")' in card


def test_a_second_push_keeps_the_card_and_drops_old_shards(hub: type[Hub], tiny: Denoiser) -> None:
    tiny.push_to_hub(REPOSITORY, max_shard_size="4kB")
    hub.files["README.md"] = b"by hand"
    hub.files["notes.json"] = b"{}"
    tiny.push_to_hub(REPOSITORY, revision="half", dtype="bfloat16", create_pr=True)
    assert hub.files["README.md"] == b"by hand"
    assert hub.files["notes.json"] == b"{}"
    assert [name for name in hub.files if name.startswith("model")] == ["model.safetensors"]
    paths = [path for path, _ in hub.calls]
    assert f"/api/models/{REPOSITORY}/branch/half" in paths
    assert f"/api/models/{REPOSITORY}/commit/half?create_pr=1" in paths


def test_a_network_without_a_format_is_refused_before_any_call(hub: type[Hub]) -> None:
    plain = wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5, mask_token_id=4)
    with pytest.raises(TypeError, match="no checkpoint format"):
        plain.push_to_hub(REPOSITORY)
    assert not hub.calls


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), ("0GB", ValueError), ("1e3KB", ValueError),
                        ("5XB", ValueError), (1.5, TypeError), (True, TypeError)],
)  # fmt: skip
def test_a_size_of_files_that_is_none_is_refused(
    tiny: Denoiser, tmp_path: Path, size: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"max_shard_size=.*'2GB'"):
        tiny.save_pretrained(tmp_path / "new", max_shard_size=size)  # type: ignore[call-arg]
    assert not (tmp_path / "new").exists()
