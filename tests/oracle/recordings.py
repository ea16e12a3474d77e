"""Recorded event streams of real upstreams: what was asked, what was sent, what the same upstream answers directly.

The folder has `index.jsonl` (a recording a line: `id`, `file`, `kind`, `provider`, `status`, `request_body`, …), the
streams byte for byte, and JSON documents that answered the same or a like request without streaming (`pair`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from force_stream.endpoints import endpoint_for
from oracle import independent

# The kinds of the index that are endpoints of ours, and the path that is asked where the recorded one is not known.
PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "audio": "/v1/audio/transcriptions",
    "images": "/v1/images/generations",
}
MINIMAL: Mapping[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "Hi"}]},
    "completions": {"model": "m", "prompt": "Once"},
    "responses": {"model": "m", "input": "Hi"},
    "anthropic": {"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]},
    "images": {"model": "m", "prompt": "A cat"},
}
FORM = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'


@dataclass(frozen=True)
class Recording:
    entry: Mapping[str, Any]
    folder: Path

    @property
    def id(self) -> str:
        return str(self.entry["id"])

    @property
    def kind(self) -> str:
        return independent.endpoint_of(self.entry)

    @property
    def endpoint(self) -> str:
        found = endpoint_for(self.path, {})
        assert found is not None
        return found.name

    @property
    def stream(self) -> bytes:
        return (self.folder / self.entry["file"]).read_bytes()

    @property
    def status(self) -> int:
        return self.entry["status"] or 200

    @property
    def content_type(self) -> str:
        return self.entry["response_content_type"] or "text/event-stream"

    @property
    def path(self) -> str:
        """The recorded path where its end says the kind; a few are placeholders, or another API's."""
        recorded = self.entry["url_path"] or ""
        usual = PATHS[self.kind]
        end = usual.removeprefix("/v1")
        return recorded if recorded.startswith("/") and recorded.partition("?")[0].endswith(end) else usual

    @property
    def request(self) -> dict[str, Any]:
        """The recorded request, or the least one of its endpoint; without `stream`, and without `background`, which
        asks for another kind of answer where there is no stream."""
        body = self.entry["request_body"]
        asked = body if isinstance(body, dict) else MINIMAL[self.kind]
        return {key: value for key, value in asked.items() if key not in ("stream", "background")}

    @property
    def body(self) -> tuple[str, bytes]:
        """The request's content type and bytes."""
        if self.kind == "audio":
            return "multipart/form-data; boundary=b", FORM
        return "application/json", json.dumps(self.request).encode()

    @property
    def direct(self) -> Any:
        """What the same upstream answered to the same request without streaming, where that is known."""
        if self.entry["pair_quality"] != "exact-request" or self.id in independent.OTHER_SERVER:
            return None
        return json.loads((self.folder / self.entry["pair"]).read_bytes())


def recordings_in(folder: Path) -> list[Recording]:
    with (folder / "index.jsonl").open(encoding="utf-8") as index:
        entries = [json.loads(line) for line in index]
    found = [Recording(entry, folder) for entry in entries]
    return [one for one in found if one.kind in PATHS]
