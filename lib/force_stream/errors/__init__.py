"""What can be wrong with an upstream's answer, and what the client gets then.

Knows the shape of OpenAI's error object and the status that goes with each failure. Must not know where a failure was
noticed: it is raised deep inside, and becomes a reply in one place, `answer/reader`. In this room, `words` and `codes`
read what an upstream's error says, and `events` finds it.
"""

from typing import Any, ClassVar, Final

from .codes import status_named

ERROR_TYPE: Final = "upstream_error"
# The code where what came cannot be read, and the upstream gave no code of its own.
MALFORMED: Final = "stream_malformed"


def error_body(message: str, code: str | None = None, kind: str = ERROR_TYPE) -> dict[str, Any]:
    """An error in OpenAI's shape (API reference, "Error object")."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class StreamError(Exception):
    """An answer that cannot be given to the client as a success.

    `status_hint` is the HTTP status for it; `retryable` says whether the same request may succeed another time.
    """

    code: ClassVar[str] = "stream_error"
    status_hint: int = 502
    retryable: ClassVar[bool] = True
    advice: str = ""

    def body(self, context: str = "") -> dict[str, Any]:
        """The JSON for the client; `context` says which rule it was and how much arrived."""
        return error_body(" ".join(part for part in (f"{self}.", context, self.advice) if part), self.code)


class IncompleteStream(StreamError):
    """The stream stopped before its end."""

    code = "stream_truncated"
    advice = "Try again, or set on_truncated: partial in the rule to get what arrived."


class EmptyStream(StreamError):
    """An event stream without events."""

    code = "stream_empty"
    advice = "Try again; if it happens again, check that the upstream can stream this model."


class MalformedStream(StreamError):
    """Neither an event stream nor JSON."""

    code = MALFORMED
    retryable = False
    advice = "Check the upstream's address and path."


class UnreadableEncoding(MalformedStream):
    """A content encoding that no library on this machine can decode."""

    advice = "Install it where mitmproxy runs, or have the upstream send its answers uncompressed."


class CorruptedStream(StreamError):
    """A part of the answer arrived in a form that cannot be read, so the rest would be an answer with a hole."""

    code = "stream_corrupted"
    advice = "Try again, or set on_truncated: partial in the rule to get what could be read."


class MixedChoices(CorruptedStream):
    """Several choices have one index, so that their texts cannot be told apart."""

    retryable = False
    advice = "Ask for one choice at a time, or exempt such requests from the rule: their plain answers may be right."


class OversizedStream(StreamError):
    """More bytes than the rule's max_body allows."""

    code = "stream_too_large"
    retryable = False
    advice = "Raise max_body in the rule if such answers are expected."


class StreamTimeout(StreamError):
    """No end within the rule's timeout, or no byte within its idle_timeout."""

    code = "stream_timeout"
    status_hint = 504
    advice = "Try again, or raise timeout or idle_timeout in the rule."


class UpstreamUnreachable(StreamError):
    """No connection, or a connection without a response."""

    code = "upstream_unreachable"
    advice = "Check that the upstream is up and that its address is right."


class ClientGone(StreamError):
    """Nobody waits for the answer any more. The status is nginx's for that, and nobody gets it."""

    code = "client_gone"
    status_hint = 499
    advice = "Raise the application's timeout, or set heartbeat in the rule."


class InternalError(StreamError):
    """A bug in the addon itself."""

    code = "force_stream_error"
    advice = "This is a bug in the proxy's force-stream addon; the proxy's log has the details."


class UpstreamError(StreamError):
    """An error event in the upstream's stream. `said` is the whole event; the client gets all of it."""

    code = "upstream_error"

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__("the upstream reported an error inside its event stream")
        self.said = said
        self.named_status = status_named(said)
        self.status_hint = self.named_status or 502

    def body(self, context: str = "") -> dict[str, Any]:
        return self.said
