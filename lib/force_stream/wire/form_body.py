"""A request body that is a form with files: read its fields, and change some without touching another byte.

Knows multipart/form-data (RFC 7578) and nothing else. A `Form` can be used in place of a `json_body.Body`.
"""

import json
import re
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from .json_body import Edited, edited, means_false

# Bytes. A longer value is not an option of the API, whatever it is.
LONGEST_FIELD: Final = 1024

_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)
_NAME: Final = re.compile(rb'^content-disposition:[^\r\n]*?;\s*name="([^"]*)"', re.IGNORECASE | re.MULTILINE)
_FILE: Final = re.compile(rb"^content-disposition:[^\r\n]*?;\s*filename\*?=", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """The fields of a form. `members` has the short ones as text, without files; of equal names the last.

    `_fields`: of each without a file the name, and where its part and its value begin, and where both end."""

    raw: bytes
    delimiter: bytes
    members: Mapping[str, object]
    _fields: list[tuple[str, int, int, int]] = field(repr=False)
    _close: int = field(repr=False)

    @property
    def asks_plain(self) -> bool:
        """Whether the form has no `stream`, or one that says no."""
        return means_false(self.members.get("stream"))

    def forced(
        self, stream_options: Mapping[str, object] | None, extra_body: Mapping[str, object] | None = None
    ) -> Edited:
        """The form with `stream` true, and with the extra fields (JSON scalars), which override its own. Stream options
        do not exist in forms."""
        return self._edited({**(extra_body or {}), "stream": True}, set())

    def plain(self, extra_body: Mapping[str, object] | None = None, options: Collection[str] = ()) -> Edited:
        """The form without `stream` and these options of a stream, and with the extra fields, which override its
        own."""
        return self._edited(extra_body or {}, {"stream", *options})

    def _edited(self, extra: Mapping[str, object], removed: Set[str]) -> Edited:
        wanted = {name.replace('"', "%22"): _spelled(value) for name, value in extra.items()}
        kept = [part for part in self._fields if part[0] not in removed]
        edits = [(start, end, wanted[name]) for name, _, start, end in kept if name in wanted]
        edits += [(begin, end + len(b"\r\n"), b"") for name, begin, _, end in self._fields if name in removed]
        missing = [name for name in wanted if name not in {name for name, _, _, _ in kept}]
        head = self.delimiter + b'\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s'
        added = b"".join(head % (name.encode(), wanted[name]) for name in missing)
        return edited(self.raw, [*edits, (self._close, self._close, added)])

    def without(self, *keys: str) -> Edited:
        """The form itself: fields are never removed."""
        return Edited(self.raw, [])


def _spelled(value: object) -> bytes:
    """A JSON scalar as the value of a field."""
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def read_form(raw: bytes, content_type: str) -> Form | None:
    """The body as a form, None if it or its content type is something else. Never raises."""
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/form-data") or found is None:
        return None
    boundary = found[1] or found[2]
    mark = b"--" + boundary.encode(errors="replace")
    if not boundary.isascii() or not raw.startswith(mark):
        return None
    delimiter = b"\r\n" + mark
    fields: list[tuple[str, int, int, int]] = []
    members: dict[str, object] = {}
    has_parts = False
    start = len(mark)
    while not raw.startswith(b"--", start):
        end = raw.find(delimiter, start)
        head_end = raw.find(b"\r\n\r\n", start, end)
        if end < 0 or head_end < 0:
            return None
        head = raw[start:head_end]
        named = _NAME.search(head)
        value = head_end + 4
        has_parts = has_parts or named is not None
        if named is not None and not _FILE.search(head):
            name = named[1].decode(errors="replace")
            fields.append((name, start - len(mark), value, end))
            if end - value <= LONGEST_FIELD:
                members[name] = raw[value:end].decode(errors="replace")
        start = end + len(delimiter)
    return Form(raw, delimiter, members, fields, start - len(delimiter)) if has_parts else None
