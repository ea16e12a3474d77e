"""A mitmproxy script that does to a flow what other people's scripts do: the act that its x-answer header begins with,
or its x-request-id header, by which a request may differ from the very same one.

An act is a function for each hook in which it does something.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mitmproxy import ctx, exceptions, flow, http

type Act = Callable[[http.HTTPFlow], Awaitable[None] | None]

DOCUMENT: Final = {"answered": "by a script"}
ERROR: Final = {"error": {"message": "no", "code": "script"}}
CHUNK: Final = {"id": "s", "choices": [{"index": 0, "delta": {"content": "scripted"}, "finish_reason": "stop"}]}
EVENTS: Final = f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n".encode()


def answer(status: int, body: bytes, content_type: str) -> Act:
    def act(flow: http.HTTPFlow) -> None:
        flow.response = http.Response.make(status, body, {"Content-Type": content_type})

    return act


def streams(flow: http.HTTPFlow) -> None:
    flow.response.stream = True


def streams_through_a_function(flow: http.HTTPFlow) -> None:
    flow.response.stream = lambda data: [data]


def kills(flow: http.HTTPFlow) -> None:
    flow.kill()


def sets_an_error(flow_: http.HTTPFlow) -> None:
    flow_.error = flow.Error("an error of a script")


async def intercepts(flow: http.HTTPFlow) -> None:
    flow.intercept()
    asyncio.get_running_loop().call_later(0.3, flow.resume)


async def takes_its_time(flow: http.HTTPFlow) -> None:
    await asyncio.sleep(0.3)


def edits_the_words(flow: http.HTTPFlow) -> None:
    flow.response.text = flow.response.text.replace("Hel", "Wel")


def sets_headers(flow: http.HTTPFlow) -> None:
    flow.response.headers["x-script"] = "was here"


def sets_the_status(flow: http.HTTPFlow) -> None:
    flow.response.status_code = 403


def clears_the_metadata(flow: http.HTTPFlow) -> None:
    flow.metadata.clear()


def replaces_the_metadata(flow: http.HTTPFlow) -> None:
    flow.metadata = {"by": "a script"}


def takes_the_response_away(flow: http.HTTPFlow) -> None:
    flow.response = None


def sets_a_status_without_a_body(flow: http.HTTPFlow) -> None:
    flow.response.status_code = 204


def sets_an_interim_status(flow: http.HTTPFlow) -> None:
    flow.response.status_code = 103


def sets_a_wrong_length(flow: http.HTTPFlow) -> None:
    flow.response.headers["content-length"] = "5"


def copies_the_response(flow: http.HTTPFlow) -> None:
    flow.response = flow.response.copy()


def takes_the_body_away(flow: http.HTTPFlow) -> None:
    flow.response.content = None


def adds_trailers(flow: http.HTTPFlow) -> None:
    flow.response.trailers = http.Headers(x_script="was here")


def compresses(flow: http.HTTPFlow) -> None:
    flow.response.encode("gzip")


def asks_for_plain(flow: http.HTTPFlow) -> None:
    body = json.loads(flow.request.content)
    flow.request.text = json.dumps({"model": body["model"], "messages": body["messages"], "stream": False})


def adds_a_member(flow: http.HTTPFlow) -> None:
    flow.request.text = json.dumps(json.loads(flow.request.content) | {"user": "script"})


def moves(flow: http.HTTPFlow) -> None:
    flow.request.path = "/elsewhere" + flow.request.path


def asks_with_put(flow: http.HTTPFlow) -> None:
    flow.request.method = "PUT"


def streams_the_request(flow: http.HTTPFlow) -> None:
    flow.request.stream = True


def replays(flow: http.HTTPFlow) -> None:
    if not flow.is_replay:
        ctx.master.commands.call("replay.client", [flow.copy()])


def fails(flow: http.HTTPFlow) -> None:
    raise RuntimeError("a fault of a script")


def halts(flow: http.HTTPFlow) -> None:
    raise exceptions.AddonHalt


JSON: Final = "application/json"
document = answer(200, json.dumps(DOCUMENT).encode(), JSON)
error = answer(403, json.dumps(ERROR).encode(), JSON)
text = answer(200, b"cached", "text/plain")
events = answer(200, EVENTS, "text/event-stream")
half = answer(200, EVENTS.replace(b'"stop"', b"null").partition(b"data: [DONE]")[0], "text/event-stream")

ACTS: Final[dict[str, dict[str, Act]]] = {
    "streams": {"responseheaders": streams},
    "streams through a function": {"responseheaders": streams_through_a_function},
    "answers at requestheaders": {"requestheaders": document},
    "answers at request": {"request": document},
    "answers at request with an error": {"request": error},
    "answers at request with text": {"request": text},
    "answers at request with events": {"request": events},
    "answers at request with half a stream": {"request": half},
    "answers at responseheaders": {"responseheaders": document},
    "answers at responseheaders with an error": {"responseheaders": error},
    "answers at response": {"response": document},
    "answers at response with an error": {"response": error},
    "answers at response with text": {"response": text},
    "answers at response with events": {"response": events},
    "clears the metadata at request": {"request": clears_the_metadata},
    "clears the metadata at responseheaders": {"responseheaders": clears_the_metadata},
    "clears the metadata at response": {"response": clears_the_metadata},
    "replaces the metadata at request": {"request": replaces_the_metadata},
    "takes the response away at responseheaders": {"responseheaders": takes_the_response_away},
    "takes the response away at response": {"response": takes_the_response_away},
    "kills at requestheaders": {"requestheaders": kills},
    "kills at request": {"request": kills},
    "kills at responseheaders": {"responseheaders": kills},
    "kills at response": {"response": kills},
    "sets an error at requestheaders": {"requestheaders": sets_an_error},
    "sets an error at request": {"request": sets_an_error},
    "sets an error at responseheaders": {"responseheaders": sets_an_error},
    "sets an error at response": {"response": sets_an_error},
    "intercepts at requestheaders": {"requestheaders": intercepts},
    "intercepts at request": {"request": intercepts},
    "intercepts at responseheaders": {"responseheaders": intercepts},
    "intercepts at response": {"response": intercepts},
    "takes its time at request": {"request": takes_its_time},
    "takes its time at responseheaders": {"responseheaders": takes_its_time},
    "takes its time at response": {"response": takes_its_time},
    "edits the words": {"response": edits_the_words},
    "sets headers at responseheaders": {"responseheaders": sets_headers},
    "sets headers at response": {"response": sets_headers},
    "sets the status at responseheaders": {"responseheaders": sets_the_status},
    "sets the status at response": {"response": sets_the_status},
    "sets a status without a body": {"response": sets_a_status_without_a_body},
    "sets an interim status": {"response": sets_an_interim_status},
    "sets a wrong length": {"response": sets_a_wrong_length},
    "copies the response": {"responseheaders": copies_the_response, "response": copies_the_response},
    "takes the body away": {"response": takes_the_body_away},
    "adds trailers": {"response": adds_trailers},
    "compresses": {"response": compresses},
    "asks for plain": {"request": asks_for_plain},
    "adds a member": {"request": adds_a_member},
    "moves": {"request": moves},
    "asks with PUT": {"request": asks_with_put},
    "streams the request": {"requestheaders": streams_the_request},
    "replays at request": {"request": replays},
    "replays at response": {"response": replays},
    "fails at request": {"request": fails},
    "fails at responseheaders": {"responseheaders": fails},
    "fails at response": {"response": fails},
    "halts at responseheaders": {"responseheaders": halts},
    "halts at response": {"response": halts},
}


async def _act(hook: str, flow: http.HTTPFlow) -> None:
    for header in ("x-answer", "x-request-id"):
        name = flow.request.headers.get(header, "").partition("/")[0]
        act = ACTS.get(name, {}).get(hook)
        done: Any = None if act is None else act(flow)
        if done is not None:
            await done


async def requestheaders(flow: http.HTTPFlow) -> None:
    await _act("requestheaders", flow)


async def request(flow: http.HTTPFlow) -> None:
    await _act("request", flow)


async def responseheaders(flow: http.HTTPFlow) -> None:
    await _act("responseheaders", flow)


async def response(flow: http.HTTPFlow) -> None:
    await _act("response", flow)
