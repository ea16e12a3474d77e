"""The forced form of a request: what its body becomes, and how its answer is to be read.

Knows endpoints and the two kinds of bodies. Must not know mitmproxy, rules files or events.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..endpoints import endpoint_for, expected_choices, never_streams
from ..endpoints.endpoint import Endpoint
from ..wire.form_body import Form
from ..wire.json_body import Body, Edited
from .fill import spelled
from .quirks import chosen
from .reader import AnswerSpec


class Refusal(Exception):
    """Why a request cannot be forced, and is sent as it came."""


def force_request(
    body: Body | Form,
    endpoint: Endpoint,
    path: str,
    *,
    rule: str,
    stream_options: Mapping[str, Any] | None,
    extra_body: Mapping[str, Any],
    on_truncated: str,
    quirks: Sequence[str],
    fill: Mapping[str, Any],
) -> tuple[AnswerSpec | None, Edited]:
    """The forced form of a plain request, and how to read its answer; no spec where the answer will be plain too.

    Raises `Refusal` where the request is to be sent as it came.
    """
    if endpoint.never_streams and never_streams(endpoint, path):
        if "stream" not in body.members:
            raise Refusal("this path never streams")
        return None, body.without("stream")
    check_form(body, endpoint, extra_body)
    asked = {**body.members, **extra_body}
    lifted = {quirk.lifts for quirk in chosen(quirks)} if quirks else ()
    if reason := endpoint.cannot_stream({key: value for key, value in asked.items() if key not in lifted}):
        raise Refusal(reason)
    model = asked.get("model")
    spec = AnswerSpec(
        rule=rule,
        endpoint=endpoint.name,
        model=model if isinstance(model, str) else "",
        choices=expected_choices(asked),
        on_truncated=on_truncated,
        quirks=tuple(quirks),
        fill=spelled(fill) if fill else "",
    )
    return spec, body.forced(endpoint.options_for(stream_options), extra_body)


def check_form(body: Body | Form, endpoint: Endpoint, extra_body: Mapping[str, Any]) -> None:
    """Raises `Refusal` for a form where the endpoint takes none, or that cannot have the extra members."""
    if not isinstance(body, Form):
        return
    if not endpoint.forms:
        raise Refusal("its body is a form, not a JSON object")
    if nested := [key for key, value in extra_body.items() if not _is_scalar(value)]:
        raise Refusal(f"its body is a form, which cannot have the rule's extra_body {', '.join(nested)}")


def _is_scalar(value: object) -> bool:
    return isinstance(value, (bool, int, float, str))


def at_path(path: str) -> AnswerSpec | None:
    """The spec of a stream that nobody forced, by its request's path; None if the path is not a known endpoint."""
    endpoint = endpoint_for(path, {})
    return None if endpoint is None else AnswerSpec(rule="(none)", endpoint=endpoint.name)
