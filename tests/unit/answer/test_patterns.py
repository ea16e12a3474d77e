"""Taking repeated chunks by their bytes changes nothing: the answer is always that of parsing every chunk."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from force_stream.answer import patterns
from force_stream.answer.quirks import QUIRKS
from force_stream.answer.reader import AnswerSpec
from force_stream.endpoints import ENDPOINTS
from harness.merging import ByForm, Never
from harness.paths import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

STREAMS = {
    f"{path.parent.name}/{path.stem}": path for path in sorted(GOLDEN.glob("*/*.sse")) if path.parent.name in ENDPOINTS
}


class Counting(patterns.Repeats):
    matched = 0

    def _match_run(self, templates: patterns.Templates, data: bytes, start: int) -> tuple[int, bool]:
        before = self._reader.count
        end = super()._match_run(templates, data, start)
        Counting.matched += self._reader.count - before
        return end


def answer(
    body: bytes, way: type[patterns.Repeats], sizes: list[int], endpoint: str = "chat", quirks: tuple[str, ...] = ()
) -> tuple[Any, ...]:
    """Reply and report of a stream that comes in pieces of these sizes, again and again."""
    # Of a stream that breaks off, too, the document shows what was read.
    spec = AnswerSpec(rule="r", endpoint=endpoint, on_truncated="partial", quirks=quirks)
    made = spec.read(200, "text/event-stream")
    made._repeats = way(made._reader)
    at = turn = 0
    while at < len(body):
        size = sizes[turn % len(sizes)]
        made.feed(body[at : at + size])
        at, turn = at + size, turn + 1
    return made.finish(), made.report


def assert_same(body: bytes, sizes: list[int], endpoint: str = "chat") -> None:
    plain = answer(body, Never, sizes, endpoint)
    assert answer(body, patterns.Repeats, sizes, endpoint) == plain
    assert answer(body, ByForm, sizes, endpoint) == plain


def chunk(text: str, **more: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m", **more} | {
        "choices": [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}]
    }


def delta(**members: Any) -> dict[str, Any]:
    return chunk("") | {"choices": [{"index": 0, "delta": members}]}


def call(arguments: str, **more: Any) -> dict[str, Any]:
    delta = {"tool_calls": [{"index": 0, **more, "function": {"arguments": arguments}}]}
    return {"id": "c", "created": 7, "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def logprobs(number: int, **more: Any) -> dict[str, Any]:
    made = chunk(f"w{number}", **more)
    said = {
        "token": f"w{number}",
        "logprob": -number / 7,
        "bytes": [119],
        "top_logprobs": [{"token": '],["', "n": 1.50}],
    }
    made["choices"][0]["logprobs"] = {"content": [said] * (1 + number % 2), "refusal": None}
    return made


def at(index: int, made: dict[str, Any]) -> dict[str, Any]:
    """The same chunk for another choice."""
    made["choices"][0]["index"] = index
    return made


def call_at(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    made = call(arguments, **more)
    made["choices"][0]["delta"]["tool_calls"][0]["index"] = index
    return made


def counted(number: int) -> dict[str, Any]:
    details = {"cached_tokens": 0, "audio_tokens": 2 * number}
    return {"usage": {"prompt_tokens": 7, "completion_tokens": number, "details": details, "cost": "1.5"}}


def figures(number: int) -> dict[str, Any]:
    return {"stats": {"rate": number / 7, "left": -number, "by": {"host": f"h{number}"}}, "x_request": f"r{number}"}


def thought(text: str, said: str, index: int = 0) -> dict[str, Any]:
    details = [{"type": "reasoning.text", "text": said, "format": "unknown", "index": index}]
    return delta(role="assistant", content="", reasoning=text, reasoning_details=details)


def thinking(text: str, **more: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}], **more}


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def typed(kind: str, number: int, delta: str, item_id: str = "i", index: int = 0) -> bytes:
    data = {"type": kind, "sequence_number": number, "item_id": item_id, "output_index": index, "delta": delta}
    return b"event: " + kind.encode() + b"\n" + event(data)


def message(text: str, blanks: int = 0, index: int = 0) -> bytes:
    """A chunk of Anthropic's, whose API hides by spaces how long its text is."""
    made = event({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}})
    return made.replace(b"}}\n", b"}%b}\n" % (b" " * blanks))


LONG = {
    "text": b"".join(event(chunk(f" word {n}")) for n in range(40)),
    "text with escapes": b"".join(event(chunk('"\\\n' * (n % 3) + f"é\u2028{n}")) for n in range(40)),
    "padding that varies": b"".join(event(chunk(f" {n}", obfuscation="x" * (n % 7))) for n in range(40)),
    "times that vary": b"".join(event(chunk(f" {n}") | {"created": 100 + n // 3}) for n in range(40)),
    "a tool call": event(call("", id="c1", type="function")) + b"".join(event(call(f'{{"a{n}":')) for n in range(40)),
    "logprobs": b"".join(event(logprobs(n)) for n in range(40)),
    "logprobs with padding": b"".join(event(logprobs(n, obfuscation="x" * (n % 5))) for n in range(40)),
    "a response": b"".join(typed("response.output_text.delta", n, f"w{n} ") for n in range(40)),
    "choices in turn": b"".join(event(at(n % 3, chunk(f"w{n} "))) for n in range(40)),
    "choices in no order": b"".join(event(at(n * n // 3 % 4, chunk(f"w{n} "))) for n in range(40)),
    "calls in turn": b"".join(event(call_at(i, "", id=f"c{i}", type="function")) for i in range(2))
    + b"".join(event(call_at(n % 2, f'{{"a{n}":')) for n in range(40)),
    "usage in every chunk": b"".join(event(chunk(f"w{n} ") | counted(n)) for n in range(1, 41)),
    "usage of choices in turn": b"".join(event(at(n % 2, chunk(f"w{n} ")) | counted(n)) for n in range(2, 42)),
    "an id for every chunk": b"".join(event(chunk(f"w{n} ", id=f"c{n}")) for n in range(40)),
    "a label for every chunk": b"".join(
        event(chunk(f"w{n} ", service_tier=("default", "flex")[n % 2], system_fingerprint=f"fp_{n}")) for n in range(40)
    ),
    "a model for every chunk": b"".join(event(chunk(f"w{n} ", model=f"m{n}")) for n in range(40)),
    "times with fractions": b"".join(event(chunk(f"w{n} ") | {"created": 7 + n / 8}) for n in range(40)),
    "figures in every chunk": b"".join(event(chunk(f"w{n} ") | figures(n)) for n in range(40)),
    "costs in every chunk": b"".join(
        event(chunk(f"w{n} ") | {"usage": {"tokens": n, "cost": {"total": n / 1e5}}}) for n in range(1, 41)
    ),
    "labels of choices in turn": b"".join(
        event(at(n % 2, chunk(f"w{n} ", system_fingerprint=f"fp_{n}"))) for n in range(40)
    ),
    "a number in each delta": b"".join(event(delta(content=f"w{n} ", token_id=n * 7919)) for n in range(40)),
    "thoughts in lists": b"".join(
        event(delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": f"w{n} "}]}]))
        for n in range(40)
    ),
    "one text in two places": b"".join(event(thought(f"w{n} ", f"w{n} ")) for n in range(40)),
    "comments between": b"".join(event(chunk(f"w{n} ")) + b": still here\n\n" * (n % 3) for n in range(40)),
    "a comment after each": b"".join(event(chunk(f"w{n} ")) + b": still here\n\n" for n in range(40)),
    "comments between choices in turn": b"".join(
        event(at(n % 2, chunk(f"w{n} "))) + b": still here\n\n" * (n % 3) for n in range(40)
    ),
    "a message": b"".join(message(f"w{n} ") for n in range(40)),
    "a message with blanks": b"".join(message(f"w{n} ", 7 * n % 16) for n in range(40)),
    "an id for every event": b"".join(typed("response.output_text.delta", n, f"w{n} ", f"i{n}") for n in range(40)),
}
LABELLED = ("a label for every chunk", "figures in every chunk", "costs in every chunk", "labels of choices in turn")
ENDPOINT_OF = {
    **dict.fromkeys(("a response", "an id for every event"), "responses"),
    **dict.fromkeys(("a message", "a message with blanks"), "messages"),
}


@pytest.mark.parametrize("name", LONG)
def test_most_chunks_of_a_long_stream_are_taken_by_their_bytes(name: str) -> None:
    Counting.matched = 0
    answer(LONG[name], Counting, [1 << 20], ENDPOINT_OF.get(name, "chat"))
    assert Counting.matched >= 30


def test_quirks_that_change_only_the_finished_message_leave_it_so() -> None:
    quirks = tuple(name for name, quirk in QUIRKS.items() if quirk.patch is None)
    Counting.matched = 0
    answer(next(iter(LONG.values())), Counting, [1 << 20], quirks=quirks)
    assert quirks
    assert Counting.matched >= 30


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 1 << 20])
@pytest.mark.parametrize("name", LONG)
def test_a_long_stream_has_the_same_answer_in_any_pieces(name: str, size: int) -> None:
    endpoint = ENDPOINT_OF.get(name, "chat")
    whole, _ = answer(LONG[name] + b"data: [DONE]\n\n", Never, [1 << 20], endpoint)
    taken, _ = answer(LONG[name] + b"data: [DONE]\n\n", patterns.Repeats, [size], endpoint)
    assert taken == whole


@pytest.mark.parametrize("name", LONG)
def test_a_long_stream_whose_lines_end_in_crlf_is_taken_by_its_bytes_too(name: str) -> None:
    body, endpoint = LONG[name].replace(b"\n", b"\r\n"), ENDPOINT_OF.get(name, "chat")
    Counting.matched = 0
    answer(body, Counting, [1 << 20], endpoint)
    assert Counting.matched >= 30
    same = answer(LONG[name], Never, [1 << 20], endpoint)[0]
    for sizes in ([1 << 20], [700, 333], [len(body) // 2 - 1, 1 << 20], *([size] for size in range(200, 207))):
        assert answer(body, patterns.Repeats, sizes, endpoint)[0] == same


@pytest.mark.parametrize("name", STREAMS)
def test_golden_streams_have_the_same_answer(name: str) -> None:
    assert_same(STREAMS[name].read_bytes(), [1 << 20], STREAMS[name].parent.name)


SPOILED = {
    "an escape that is none": event(chunk("a")).replace(b'"a"', b'"\\x"'),
    "half an escape": event(chunk("a")).replace(b'"a"', b'"\\u12"'),
    "a line end in a text": event(chunk("a")).replace(b'"a"', b'"a\nb"'),
    "a carriage return in a text": event(chunk("a")).replace(b'"a"', b'"a\rb"'),
    "a text without its end": event(chunk("a")).replace(b'"a"', b'"a'),
    "invalid UTF-8": event(chunk("a")).replace(b'"a"', b'"\xff\xe2\x82"'),
    "half a surrogate pair": event(chunk("a")).replace(b'"a"', b'"\\ud83d"'),
    "the other half": event(chunk("a")).replace(b'"a"', b'"\\ude00"'),
    "a backslash at the end": event(chunk("a\\")),
    "a role": event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "a"}}]}),
    "a finish reason": event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    "another choice": event({"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]}),
    "usage": event(chunk("u", usage={"total_tokens": 3})),
    "another field": event(chunk("f", provider="p")),
    "the field twice": event(chunk("a")).replace(b'"a"', b'"a","content":"b"'),
    "an error": event(chunk("a", error={"message": "no", "code": 429})),
    "a comment": b": ping\n\n",
    "a comment with an event in it": b": pingdata: " + event(chunk("p"))[6:],
    "a comment that ends in a CR": b": ping\r\n\n",
    "a comment of two lines": b": ping\n: pong\n\n",
    "a comment that is not UTF-8": b": \xff\n\n",
    "a piece of a call without an index": event(delta(tool_calls=[{"function": {"arguments": "1"}}])),
    "usage of nothing": event(chunk("u") | counted(0)),
    "usage and nothing else": event({"choices": [], "id": "c"} | counted(3)),
    "usage in a choice": event({"choices": [{"index": 0, "delta": {"content": "u"}, **counted(3)}]}),
    "usage spelled oddly": event(chunk("u") | counted(3)).replace(b":3,", b":3.0,"),
    "an empty id": event(chunk("i", id="")),
    "an id that is a number": event(chunk("i") | {"id": 7}),
    "an identity": b"id: 7\n" + event(chunk("a")),
    "a name": b"event: error\n" + event(chunk("a")),
    "two lines of data": b'data: {"choices":\ndata: []}\n\n',
    "a counter with a zero before it": event(chunk("a") | {"created": 7}).replace(b":7,", b":07,"),
    "padding that is no JSON": event(chunk("a", obfuscation="x")).replace(b'"x"', b'"\\x"'),
    "a list that ends and begins again": event(logprobs(1)).replace(b'"content":[', b'"content":[1],"content":['),
    "a list of two": event(logprobs(1)).replace(b'"content":[', b'"content":[1,'),
    "two lists for one": event(logprobs(1)).replace(b'"content":[', b'"content":[1],['),
    "half a list": event(logprobs(1)).replace(b'"content":[', b'"content":[{'),
    "an empty list": event(logprobs(1)).replace(b'"content":[{', b'"content":[],"x":[{'),
    "a number spelled oddly": event(logprobs(1)).replace(b"1.5}", b"1.50e2}"),
    "two numbers for one": event(chunk("a") | figures(1) | counted(3)).replace(
        b'"cached_tokens":0', b'"cached_tokens":1,2'
    ),
    "two numbers at an end": event(chunk("u") | {"usage": {"tokens": 7}}).replace(b":7}", b":7,8}"),
    "an empty label": event(chunk("l", system_fingerprint="")),
    "a label that is null": event(chunk("l", system_fingerprint=None)),
    "figures that are none": event(
        chunk("f") | {"stats": {"rate": 0, "left": -0.0, "by": {"host": ""}}, "x_request": ""}
    ),
    "a label that is a list": event(chunk("l", x_request=["r"])),
    "a label that tells of an error": event(chunk("l", error_code="e1")),
    "the end": b"data: [DONE]\n\n",
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_an_odd_event_among_like_ones_is_read_as_ever(spoiled: str) -> None:
    for before, after in ((0, 5), (1, 5), (5, 5)):
        events = [event(chunk(f"{n}")) for n in range(before)], [event(chunk(f"-{n}")) for n in range(after)]
        assert_same(b"".join([*events[0], SPOILED[spoiled], *events[1], SPOILED[spoiled], *events[1]]), [1 << 20])
        listed = b"".join(event(logprobs(n)) for n in range(4))
        assert_same(listed + SPOILED[spoiled] + listed, [1 << 20])
        padded = b"".join(event(chunk(f"{n}", obfuscation="x" * n)) for n in range(4))
        assert_same(padded + SPOILED[spoiled] + padded, [1 << 20])
        for name in (
            *("choices in turn", "calls in turn", "usage of choices in turn", "an id for every chunk"),
            *LABELLED,
        ):
            assert_same(LONG[name] + SPOILED[spoiled] + LONG[name], [1 << 20])


@pytest.mark.parametrize(
    "blanks", [b"\t", b" \t ", b"}", b"  }", b',"index":1', b',"delta":{}', b" x", b"\n", b"\r\n "]
)
def test_what_is_not_blank_where_blanks_are_is_read_as_ever(blanks: bytes) -> None:
    events = [message(f"w{n} ", 7 * n % 16) for n in range(30)]
    odd = message("odd", 1).replace(b"} }\n", b"}%b}\n" % blanks)
    for at in (1, 2, 20):
        assert_same(b"".join([*events[:at], odd, *events[at:], odd]), [1 << 20], "messages")
    assert_same(b"".join([*events, *(message(f"v{n} ", n % 5, index=n % 2) for n in range(30))]), [700], "messages")


def test_blanks_behind_a_number_are_no_part_of_it() -> None:
    kind, blanks = "response.output_text.delta", [b" " * (n % 4) + b"}\n" for n in range(40)]
    said = [{"type": kind, "output_index": 0, "delta": f"w{n} ", "sequence_number": n} for n in range(40)]
    body = b"".join(event(each).replace(b"}\n", end) for each, end in zip(said, blanks, strict=True))
    for size in (1 << 20, 700, 150):
        assert_same(body, [size], "responses")


def test_an_event_that_is_cut_behind_a_quote_waits_for_its_rest() -> None:
    said = [message(f"w{n} ", n % 4).replace(b'"index":0,', b"").replace(b"}}", b"}") for n in range(40)]
    padded = [typed("response.output_text.delta", n, f"w{n} ") for n in range(40)]
    padded = [
        each.replace(b'"}\n', b'","obfuscation":"%b"%b}\n' % (n * b"x", n % 4 * b" ")) for n, each in enumerate(padded)
    ]
    for endpoint, events in (("messages", said), ("responses", padded)):
        body = b"".join(events)
        for cut in (at for at in range(len(body)) if body[at : at + 1] == b'"'):
            assert answer(body, patterns.Repeats, [cut + 1, 1 << 20], endpoint) == answer(
                body, Never, [1 << 20], endpoint
            )


def test_an_event_may_address_its_item_by_any_of_the_ids_it_had() -> None:
    kind = "response.output_text.delta"
    first = [typed(kind, n, f"w{n} ", f"i{n}") for n in range(30)]
    second = [typed(kind, n, f"w{n} ", f"j{n}", index=1) for n in range(30)]
    by_id = [typed(kind, n, f"v{n} ", f"i{n}", index=1) for n in (3, 9)]
    without_index = [each.replace(b',"output_index":1', b"") for each in by_id]
    escaped = [each.replace(b'"i3', b'"\\u00693') for each in by_id]
    for more in (without_index, by_id, escaped):
        body = b"".join([*first, *second[:15], *more, *second[15:]])
        for size in (1 << 20, 500):
            assert_same(body, [size], "responses")


@pytest.mark.parametrize("count", [3, 30])
def test_a_signed_thought_in_a_list_that_says_all_again_is_one(count: int) -> None:
    texts = [f"w{n} " for n in range(count)]
    said = [*map(thinking, texts), *[thinking("".join(texts), signature="s")] * 20]
    stream = b"".join(event(delta(content=[part])) for part in said)
    assert_same(stream, [1 << 20])
    reply, _ = answer(stream, patterns.Repeats, [500])
    assert reply.body.count(b"w1 ") == 1


def test_lists_behind_an_empty_one_are_written_as_json() -> None:
    listed = [event({"choices": [{"index": 0, "delta": {}, "logprobs": {"content": [n]}}]}) for n in range(20)]
    empty = event({"choices": [{"index": 0, "delta": {}, "logprobs": {"content": []}}]})
    for before in range(4):
        assert_same(b"".join([*listed[:before], empty, *listed]), [1 << 20])


@pytest.mark.parametrize("last", ["", None, 0, -1.5, "fp_last", True, {}, {"a": "b"}])
def test_the_label_before_a_placeholder_is_the_last_that_counts(last: Any) -> None:
    events = [event(chunk(f"w{n} ", system_fingerprint=f"fp_{n}", x_note=n / 3)) for n in range(20)]
    end = event(chunk("end", system_fingerprint=last, x_note=last))
    assert_same(b"".join([*events, end]), [1 << 20])
    assert_same(b"".join([*events, end, *events, end, end]), [900])


@pytest.mark.parametrize(
    "weights",
    [
        [(0, 0), (1, 0), (0, 1), (1, 0), (0, 0), (1, 2)],
        [(n % 2, n * n % 5) for n in range(23)],
        [(0, 1), (0, 2), (1, 3)] * 9,
    ],
)
def test_a_label_in_each_choice_has_its_own_last_value(weights: list[tuple[int, int]]) -> None:
    events = [event(at(index, delta(refusal=f"w{n} ", weight=weight))) for n, (index, weight) in enumerate(weights)]
    assert_same(b"".join(events), [1 << 20])
    for size in (1, 50, 400):
        assert_same(b"".join(events), [size])


@pytest.mark.parametrize("name", ["error", "code", "status", "message", "data", "type", "error_code", "detail", "ok"])
def test_an_error_among_labels_is_seen(name: str) -> None:
    events = [event(chunk(f"w{n} ") | {name: word}) for n, word in enumerate(["ok", "fine", "success", "", "1"] * 4)]
    for words in ("the upstream failed", "429", 500, "rate_limit_exceeded"):
        assert_same(b"".join([*events, event(chunk("e") | {name: words}), *events]), [1 << 20])
        assert_same(b"".join([*events, event({"choices": [], name: words}), *events]), [1 << 20])


def test_many_labels_leave_a_chunk_a_pattern() -> None:
    labels = {f"label{number}": {f"of{number}": number} for number in range(60)}
    Counting.matched = 0
    answer(b"".join(event(chunk(f"w{n} ") | labels) for n in range(40)), Counting, [1 << 20])
    assert Counting.matched >= 30


def test_the_totals_before_a_placeholder_are_the_last_that_count() -> None:
    events = [event(chunk(f"w{n} ", usage={"prompt_tokens": n, "completion_tokens": 2 * n})) for n in range(1, 20)]
    placeholder = event(chunk("end", usage={"prompt_tokens": 0, "completion_tokens": 0}))
    assert_same(b"".join([*events, placeholder]), [1 << 20])
    assert_same(b"".join([*events, placeholder, *events, placeholder, placeholder]), [900])


MORE = st.sampled_from(
    [
        {"novel": 3},
        {"novel": 4.5},
        {"novel": "5"},
        {"error": 0},
        {"error": 500},
        {"novel": True},
        {"novel": ["x"]},
        {"novel": {"list": [1]}},
        {"novel": "label"},
        {"reasoning_details": [{"index": 0, "type": "t", "text": "r"}]},
        {"function_call": {"name": "f", "arguments": "{"}},
        {"tool_calls": [{"index": 0, "custom": {"input": "i"}}]},
        {"tool_calls": [{"id": "c1", "function": {"arguments": "{}"}}]},
        {"annotations": [{"url": "u"}]},
    ]
)
EVENTS = st.one_of(
    st.text(max_size=6).map(lambda text: event(chunk(text))),
    st.tuples(st.text(max_size=4), st.text("xyz", max_size=4)).map(
        lambda pair: event(chunk(pair[0], obfuscation=pair[1]))
    ),
    st.tuples(st.text(max_size=4), st.integers(0, 99)).map(lambda pair: event(chunk(pair[0]) | {"created": pair[1]})),
    st.text(max_size=6).map(lambda text: event(call(text))),
    st.tuples(st.text(max_size=4), MORE).map(lambda pair: event(delta(content=pair[0], **pair[1]))),
    st.integers(0, 3).map(lambda number: event(logprobs(number))),
    st.tuples(st.integers(0, 2), st.text(max_size=4), MORE).map(
        lambda one: event(at(one[0], delta(content=one[1], **one[2])))
    ),
    st.tuples(st.integers(0, 3), st.text(max_size=4)).map(lambda pair: event(at(pair[0], chunk(pair[1])))),
    st.tuples(st.integers(0, 3), st.text(max_size=4)).map(lambda pair: event(call_at(*pair))),
    st.tuples(st.integers(0, 2), st.integers(0, 20)).map(
        lambda pair: event(at(pair[0], chunk("u")) | counted(pair[1]))
    ),
    st.tuples(st.text("ab1", max_size=2), st.integers(0, 1)).map(
        lambda pair: event(at(pair[1], chunk("i", id=pair[0])))
    ),
    st.tuples(st.text(max_size=3), st.text(max_size=3), st.integers(0, 1)).map(lambda one: event(thought(*one))),
    st.tuples(st.text("ab1", max_size=2), st.integers(0, 1)).map(
        lambda pair: event(at(pair[1], chunk("l", model=pair[0], system_fingerprint=pair[0])))
    ),
    st.tuples(st.integers(-1, 9), st.integers(0, 1)).map(
        lambda pair: event(at(pair[1], chunk("f")) | figures(pair[0]))
    ),
    st.sampled_from(["", "ok", "error", "429", "failed"]).map(
        lambda word: event(chunk("e", status=word, code=word, type=word))
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=4).map(
        lambda text: f": {text}\n\n".encode()
    ),
    st.sampled_from(sorted(SPOILED.values())),
)


@given(
    st.lists(st.tuples(st.lists(EVENTS, min_size=1, max_size=4), st.integers(1, 6)), max_size=8),
    st.lists(st.integers(1, 400), min_size=1, max_size=4),
    st.lists(
        st.tuples(st.integers(0, 4000), st.sampled_from([b"", b'"', b"\\", b"\n", b"}", b"]", b"[", b",", b"\xff"])),
        max_size=3,
    ),
)
def test_any_stream_has_the_same_answer(
    runs: list[tuple[list[bytes], int]], sizes: list[int], wounds: list[tuple[int, bytes]]
) -> None:
    body = b"".join(b"".join(in_turn) * times for in_turn, times in runs)
    for place, byte in wounds:
        body = body[:place] + byte + body[place + 1 :]
    assert_same(body, sizes)


def test_one_wrong_byte_does_not_make_a_stream_be_read_again_and_again() -> None:
    steps = 0

    class Steps(patterns.Repeats):
        def _match_run(self, templates: patterns.Templates, data: bytes, start: int) -> tuple[int, bool]:
            nonlocal steps
            steps += 1
            return super()._match_run(templates, data, start)

    good, bad = event(chunk("a")), SPOILED["an escape that is none"]
    answer((good * 3 + bad) * 500, Steps, [1 << 20])
    assert steps <= 4 * 500 + 4


IN_TURN: dict[str, Callable[[int], bytes]] = {
    "choices": lambda n: event(at(n % 3, chunk(f"w{n} "))),
    "comments": lambda n: event(chunk(f"w{n} ")) + b": c\n\n",
}


@pytest.mark.parametrize("place", range(20, 24))
@pytest.mark.parametrize("name", IN_TURN)
def test_one_wrong_byte_within_a_round_does_not_make_it_be_read_again_and_again(
    name: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, fit = 0, patterns.Round.fit

    def counting(self: patterns.Round, data: bytes, at: int, until: int) -> int:
        nonlocal fits
        fits += 1
        assert fits < 500
        return fit(self, data, at, until)

    monkeypatch.setattr(patterns.Round, "fit", counting)
    for wrong in (b"\\x", b"\xff"):
        fits, events = 0, [IN_TURN[name](n) for n in range(60)]
        events[place] = events[place].replace(b"w%d" % place, wrong).replace(b": c", b": }c")
        assert_same(b"".join(events), [1 << 20])


def test_an_escaped_name_that_is_a_slot_twice_is_not_a_template() -> None:
    twice = event(chunk("a")).replace(b'"content":"a"', rb'"content":"a","c\u006fntent":"b"')
    assert_same(twice * 5, [1 << 20])


def test_a_name_with_half_of_a_surrogate_pair_is_read_as_any_other() -> None:
    named = event(chunk("a")).replace(b'"content":"a"', rb'"content":"a","log\ud800":[1]')
    assert_same(named * 5, [1 << 20])


def legacy(text: str, name: str) -> bytes:
    return event({"object": name, "choices": [{"index": 0, "text": text}]})


def test_chunks_of_another_api_are_none_though_their_members_are_those_of_known_ones() -> None:
    mine = [legacy(f"a{n}", "chat.completion.chunk") for n in range(4)]
    assert_same(b"".join([*mine, *(legacy(f"b{n}", "text_completion") for n in range(4)), *mine]), [1 << 20])


def test_what_is_odd_about_calls_is_seen_where_they_are_not_merged() -> None:
    calls = [[{"index": 0, "id": f"c{n}", "function": {"arguments": ""}}] for n in range(4)]
    events = [event({"choices": [{"index": 0, "text": "a", "delta": {"tool_calls": call}}]}) for call in calls]
    assert_same(b"".join(events), [1 << 20], "completions")


@pytest.mark.parametrize("count", [3, 7, 9])
def test_events_that_are_taken_by_their_bytes_count_among_those_of_another_api(count: int) -> None:
    others = event({"type": "message_delta", "delta": {"x": 1}}) * 4
    assert_same(others + b"".join(event(chunk(f"w{n} ")) for n in range(count)), [1 << 20])


@pytest.mark.parametrize(
    "delta",
    [
        b'{"content" : "a"},"note":{"content":"w%d"}',
        b'{"content"\t:"a"},"note":{"content":"w%d"}',
        b'{"content":"w%d","content" :"a"}',
        b'{"content":"w%d","content":  "a"}',
        b'{"content":"w%d","content":\t"a"}',
    ],
)
def test_a_member_is_not_taken_for_one_with_white_space_around_its_colon(delta: bytes) -> None:
    events = [b'data: {"choices":[{"index":0,"delta":%b}]}\n\n' % (delta % n) for n in range(8)]
    assert_same(b"".join(events), [1 << 20])


def test_an_error_on_a_line_of_its_own_is_read_before_the_event_behind_it_is_whole() -> None:
    made = AnswerSpec(rule="r", endpoint="chat").read(200, "text/event-stream")
    made.feed(event(chunk("a")) * 3 + b'error: {"message":"no"}\ndata: {"choices"')
    assert made.ended
    assert made.report.events == 4
