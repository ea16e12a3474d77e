"""Forms with files: bytes to send, and what is in them by Python's own reader."""

from email import message_from_bytes, policy
from email.message import Message
from typing import cast

# The name, what comes after it in the Content-Disposition line, and the value.
type Field = tuple[str, bytes, bytes]


def field(name: str, value: bytes | str, extra: bytes = b"") -> Field:
    return name, extra, value.encode() if isinstance(value, str) else value


def file(name: str, value: bytes, filename: str = "a.wav") -> Field:
    return name, b'; filename="%s"\r\nContent-Type: audio/wav' % filename.encode(), value


def form(*fields: Field, boundary: str = "b", end: bytes = b"\r\n") -> bytes:
    mark = b"--" + boundary.encode()
    parts = [
        mark + b'\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + extra + b"\r\n\r\n" + value
        for name, extra, value in fields
    ]
    return b"\r\n".join([*parts, mark + b"--"]) + end


def content_type(boundary: str = "b", quoted: bool = False) -> str:
    return f'multipart/form-data; boundary="{boundary}"' if quoted else f"multipart/form-data; boundary={boundary}"


def fields_of(raw: bytes, kind: str) -> list[tuple[str | None, str | None, bytes]]:
    """Name, file name and value of every part, as Python's own reader of MIME has them."""
    message = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + raw, policy=policy.HTTP)
    parts = cast("list[Message]", message.get_payload())
    return [
        (
            cast("str | None", part.get_param("name", header="content-disposition")),
            part.get_filename(),
            cast("bytes", part.get_payload(decode=True)),
        )
        for part in parts
    ]
