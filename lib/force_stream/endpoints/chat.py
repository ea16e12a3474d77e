"""Chat completions: from `chat.completion.chunk`s to the `chat.completion` a plain request gets.

Knows the chunk's fields and their rules, when a stream is complete, and the final shape; must not know bytes, HTTP
or server-sent events. https://platform.openai.com/docs/api-reference/chat-streaming
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from ..errors import EmptyStream, IncompleteStream, MixedChoices
from ..errors.events import MAY_REPORT, error_in
from ..merge.fields import (
    CHANGED,
    SAME,
    TOTALS,
    Fields,
    Pieces,
    Rule,
    Slots,
    by_index,
    concat,
    extend,
    fields,
    first,
    index_of,
    label,
    latest,
    listing,
    nothing,
    of_first,
    overlay,
    padding,
)
from ..merge.parts import parts, reasoning
from ..merge.snapshots import snapshots
from ..merge.tool_calls import ToolCalls, called_function, tool_calls, with_ids
from ..wire.jsontext import Number
from ..wire.text import printable
from .endpoint import NO_REASONS, Aggregated, Aggregator, Asked, Endpoint, Memo, Request, fewer_than, not_json
from .pieces import base64_pieces, by_tokens, may_be_said_again, pieces


class Base64(Pieces):
    """Base64 in pieces. OpenAI's audio pieces join as text; a piece with padding of its own does not."""

    def result(self) -> str:
        if any(piece.endswith("=") for piece in self._pieces[:-1]):
            try:
                return base64.b64encode(b"".join(map(base64.b64decode, self._pieces))).decode()
            except ValueError:
                pass
        return "".join(self._pieces)


# A finish reason replaces one of lower precedence. OpenRouter sends `stop` after `tool_calls` with Gemini; `length` and
# `content_filter` are facts that nothing takes back.
_PRECEDENCE: Final = {"stop": 0, "length": 2, "content_filter": 2, "error": 2}


# The members of a delta, or of a choice, that hold what the model says.
_CONTENT: Final = (
    *("content", "text", "refusal", "tool_calls", "function_call", "audio", "images"),
    *("reasoning_content", "reasoning", "reasoning_text", "reasoning_details", "thinking_blocks"),
)
# The members of these that do not hold it.
_LABELS: Final = frozenset(("id", "type", "index", "format", "role", "expires_at"))


def _says_more(choice: dict[str, Any]) -> bool:
    """Whether a choice has more of the answer. White space is not more: OpenRouter sends it after the finish reason."""
    delta = choice.get("delta")
    if isinstance(delta, str):
        return not is_blank(delta)
    places = (choice, delta) if isinstance(delta, dict) and delta.get("role") != "tool" else (choice,)
    return not all(is_blank(place.get(key)) for place in places for key in _CONTENT)


def is_blank(value: Any) -> bool:
    """Whether a value has no content: nothing but white space and labels."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict):
        return all(is_blank(item) for key, item in value.items() if key not in _LABELS)
    return all(map(is_blank, value)) if isinstance(value, list) else value is None


def _counts(value: Any) -> bool:
    """Whether usage has a number other than 0; what else is in it are labels, such as a service tier."""
    if type(value) is int:
        return value != 0
    if isinstance(value, str):
        return value.replace(".", "", 1).isdecimal() and bool(value.strip("0."))
    values = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list)):
        return any(map(_counts, values))
    return bool(value) and isinstance(value, (float, Number))


_DELTA: Final[Mapping[str, Rule]] = {
    "role": first,
    "content": parts,
    "refusal": concat,
    "reasoning_content": concat,  # DeepSeek, Z.ai, xAI, llama.cpp
    "reasoning": concat,  # OpenRouter, Groq, Ollama, vLLM
    "reasoning_text": concat,  # GitHub Copilot
    "reasoning_details": reasoning,
    "thinking_blocks": parts,  # LiteLLM
    "provider_specific_fields": fields(  # LiteLLM: some of them are in the delta too
        {"thinking_blocks": parts, "reasoning_details": reasoning, "reasoning_content": concat, "reasoning": concat}
    ),
    "tool_calls": tool_calls,
    "function_call": called_function,
    "audio": fields({"id": first, "data": Base64, "transcript": concat, "expires_at": latest}),
    "images": by_index(fields({}, latest)),
    "executed_tools": by_index(fields({}, latest)),  # Groq compound: each first without, then with its output
    "annotations": extend,
    "error": latest,  # whatever it is, it may be one
    "name": first,
    "channel": latest,  # Groq, gpt-oss
    "phase": latest,  # Cline, codex models
    "status": latest,  # Qwen's web API: "typing" until it is "finished"
    "obfuscation": padding,
}
# What a choice has that is merged for itself, as the chunk's usage is.
ASIDE: Final = {"index": nothing, "finish_reason": nothing, "finishReason": nothing, "usage": nothing}
_CHOICE: Final[Mapping[str, Rule]] = {
    "delta": fields(_DELTA),
    "message": snapshots,
    "text": concat,
    "logprobs": fields({"content": listing, "refusal": listing}),
    "token_ids": listing,
    "obfuscation": padding,  # Bedrock
    **ASIDE,
}
_CHUNK: Final[Mapping[str, Rule]] = {
    "id": of_first,
    "object": nothing,  # "chat.completion.chunk", "", "text_completion", …: the answer has its own
    "created": of_first,
    "model": of_first,
    "choices": nothing,  # and usage: they have accumulators of their own
    "usage": nothing,
    **dict.fromkeys(("type", *MAY_REPORT), overlay),  # each of them is looked at; all others are labels
    "prompt_progress": nothing,  # llama.cpp's progress through the prompt, which a plain answer does not have
    "x_groq": fields({"usage": nothing}, overlay),  # Groq's plain answers have the usage at the top alone
    "obfuscation": padding,
    "p": padding,  # Mistral's
}


# The types by which gateways to Anthropic, and others, keep the connection alive.
_KEEP_ALIVES: Final = ("ping", "keepalive", "keep-alive", "keep_alive", "heartbeat")
# What upstreams have as `object`. TGI, Perplexity and Together are those that differ.
OBJECTS: Final = (
    *("chat.completion.chunk", "chat.completion", "chat.completion.done", "chat.completions"),
    *("text_completion", "text_completion.chunk", "text.completion", "completion.chunk", "completion"),
)
# The members by which a chunk without choices is known: Azure's filters, Groq, llama.cpp, Cerebras, Perplexity, GitHub
# Copilot, Vercel, xAI, OpenAI's padding.
_MEMBERS: Final = frozenset(
    (
        *("prompt_filter_results", "prompt_annotations", "content_filter_results", "x_groq", "timings"),
        *("prompt_progress", "time_info", "citations", "search_results", "copilot_usage", "generationId"),
        "obfuscation",
    )
)
# Members that are not content by themselves.
_ENVELOPE: Final = frozenset(
    ("id", "model", "created", "choices", "usage", "service_tier", "system_fingerprint", "provider", "p")
)


# The members of a choice that do more than to add to what there is.
_UNUSUAL: Final = frozenset(("finishReason", "usage"))
_MOST_CHOICES: Final = 10_000

# Members, each with where it is, that have no row: a delta's own members have one each, and tool calls are asked first
# whether they go on.
_BY_THEMSELVES: Final = ((1, "delta"), (2, "tool_calls"))

type _Row = tuple[int, str, Callable[[Any], object]]


class _Plan(NamedTuple):
    """The members of a chunk (0), of its choice (1) and of the delta (2) that are to be merged, and what does it; what
    merges tool calls, if there are any; and whether the delta has a role."""

    rows: list[_Row]
    calls_go_on: Callable[[Any], bool] | None
    has_role: bool


class CompletionAggregator(Aggregator):
    """What chat and legacy completions share: chunks with choices, each with its finish reason.

    `finished` once each choice that was asked for has its own; usage may follow, so only [DONE] ends the stream.
    """

    objects: tuple[str, ...] = OBJECTS
    has_choices = True
    object_name: str
    choice_rules: Mapping[str, Rule]

    def __init__(self, expected_choices: int = 1) -> None:
        self._top = Fields(_CHUNK, label)
        self._choices: dict[int, Fields] = {}
        self._reasons: dict[int, Any] = {}
        self._unfinished: set[int] = set()  # without a finish reason
        self._reopened: set[int] = set()  # with one that more content has followed
        self._twins: set[int] = set()  # said of two choices in one chunk
        self._ended_twice: set[int] = set()
        self._with_usage = False  # whether the chunk has usage: with it, the finish reason is often said again
        self._usage: Any = None
        self._placeholder: Any = None
        self._expected = expected_choices

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        choices = chunk.get("choices")
        if not choices and chunk.get("type") in _KEEP_ALIVES:
            return SAME
        if not isinstance(choices, list):
            choices = []
        self._with_usage = bool(chunk.get("usage"))
        of_top, chosen = self._top.add(chunk), self._add_choices(choices)
        slots = None if of_top is None or chosen is None else of_top + chosen
        in_choices = [choice for choice in choices if isinstance(choice, dict) and choice.get("usage")]
        if self._with_usage or in_choices or chunk.get("x_groq"):
            slots = self._add_usage(chunk, choices, slots)
        return slots

    def goes_on(self, chunk: dict[str, Any], memo: Memo) -> bool:
        choice = chunk["choices"][0]
        index = choice.get("index", 0)
        if type(index) is not int or index in self._reasons or choice.get("finish_reason"):
            return False
        plan = memo.get(index) or self._plan(chunk, choice, index, memo)
        if plan is None:
            return False
        rows, calls_go_on, has_role = plan
        delta = choice.get("delta")
        if has_role and delta["role"] == "tool":
            return False
        if calls_go_on is not None and not calls_go_on(delta["tool_calls"]):
            return False
        places = (chunk, choice, delta)
        for place, name, add in rows:
            said = places[place][name]
            if said is not None:  # no member is changed by null
                add(said)
        usage = chunk.get("usage")
        if usage:
            self._note_usage(usage)
        return True

    def _plan(self, chunk: dict[str, Any], choice: dict[str, Any], index: int, memo: Memo) -> _Plan | None:
        """What is to be merged of chunks of one form whose choice has this index. None if they may do more than to go
        on with what there is."""
        known, delta = self._choices.get(index), choice.get("delta")
        if known is None or "x_groq" in chunk or not _UNUSUAL.isdisjoint(choice) or not 0 <= index < _MOST_CHOICES:
            return None
        found: list[_Row] = []
        for place, (merged, said) in enumerate(((self._top, chunk), (known, choice), (known.member("delta"), delta))):
            if isinstance(merged, Fields) and said is not None:
                rows = merged.rows(said)
                if rows is None:
                    return None
                found += [(place, name, add) for name, add in rows if (place, name) not in _BY_THEMSELVES]
        calls_go_on = None
        if delta and "tool_calls" in delta:
            calls = merged.member("tool_calls") if isinstance(merged, Fields) else None
            if not isinstance(calls, ToolCalls):
                return None  # they are not merged, but may be odd
            calls_go_on = calls.goes_on
        plan = memo[index] = _Plan(found, calls_go_on, "role" in (delta or {}))
        return plan

    def _add_usage(self, chunk: dict[str, Any], choices: list[Any], slots: Slots | None) -> Slots | None:
        """Note the usage of a chunk, which may also stand in a choice (Moonshot, llama.cpp) or in Groq's x_groq; the
        one at the top level wins. Returns the chunk's effect, given that of the rest."""
        for place in (*choices, chunk.get("x_groq"), chunk):
            usage = place.get("usage") if isinstance(place, dict) else None
            if usage and self._note_usage(usage):
                is_total = place is chunk and isinstance(usage, dict)
                slots = (*slots, ("usage", TOTALS)) if is_total and slots is not None else CHANGED
                if not choices and self.finished:
                    self.early = 0  # nothing follows usage that has a chunk of its own
        return slots

    def _note_usage(self, usage: Any) -> bool:
        """Note a usage. Whether it counts something: many upstreams send it in every chunk, cumulative, so it is never
        summed; the last that does is the answer's. Zeros and {} are placeholders (MiniMax, GCWing/OpenBitFun#792)."""
        if _counts(usage):
            self._usage = usage
            return True
        self._placeholder = usage
        return False

    def knows(self, chunk: dict[str, Any], event: str = "") -> bool:
        usage = chunk.get("usage")
        return bool(
            (chunk.get("choices") and isinstance(chunk["choices"], list))
            or chunk.get("type") in _KEEP_ALIVES
            or event in _KEEP_ALIVES
            or (usage and _counts(usage))
            or not _MEMBERS.isdisjoint(chunk)
            or _ENVELOPE.issuperset(chunk)
        )

    def _add_choices(self, choices: list[Any]) -> Slots | None:
        """Merge choices by their `index`, in whatever order they come."""
        effect: Slots | None = SAME
        in_chunk: set[int] = set()
        for position, choice in enumerate(choices):
            if isinstance(choice, dict):
                index = choice.get("index")
                if type(index) is not int:
                    index = index_of(choice)
                index = position if index is None else index
                known = self._choices.get(index)
                if known is None:
                    known = self._choices[index] = Fields(self.choice_rules, overlay)
                    self._unfinished.add(index)
                delta = choice.get("delta")
                if isinstance(delta, str) or (isinstance(delta, dict) and delta.get("role") == "tool"):
                    known.add(_with_delta(choice, delta))
                    effect = CHANGED
                else:
                    effect = known.add(choice)
                if len(choices) > 1:
                    (self._twins if index in in_chunk else in_chunk).add(index)
                # The second is how gateways in JavaScript spell it (jakobdylanc/llmcord#84). vLLM's `stop_reason` is
                # another thing, the stop sequence that was met.
                said = choice.get("finish_reason") or choice.get("finishReason")
                if said or index in self._reasons:
                    effect = CHANGED if self._note_reason(index, said, choice) else effect
        # `finished` is asked after every event, so it must not cost more the more choices there are.
        self.finished = not self._unfinished and not self._reopened and len(self._choices) >= self._expected
        return effect if len(choices) < 2 else CHANGED

    def _note_reason(self, index: int, said: Any, choice: dict[str, Any]) -> bool:
        """Note a finish reason, or what follows one. Whether there is one: "" (Ollama, SGLang) is none."""
        before = self._reasons.get(index)
        if before is not None and index not in self._reopened and _says_more(choice):
            self._reopened.add(index)
            self.early += 1
        if not said or (isinstance(said, str) and said.lower() in NO_REASONS):
            return False
        if before is not None and (index in self._reopened or not self._with_usage):
            self._ended_twice.add(index)
        if before is None or _PRECEDENCE.get(str(said), 1) > _PRECEDENCE.get(str(before), 1):
            self._reasons[index] = said
        self._unfinished.discard(index)
        self._reopened.discard(index)
        return True

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        if not self._choices:
            if done:
                raise EmptyStream("the upstream's event stream had no choices")
            raise IncompleteStream("the upstream's event stream stopped before its first choice")
        if self._unfinished and not done and not partial:
            raise IncompleteStream("the upstream's event stream stopped before its end")
        if self._are_mixed and not partial:
            raise MixedChoices("the upstream gave several choices the same index, so their texts cannot be told apart")
        # A reason that content has followed does not say why a stream stopped that was cut.
        reasons = {} if partial and not done and self.early else self._reasons
        choices = [
            self._choice(index, self._choices[index].result(), reasons.get(index), done=done)
            for index in sorted(self._choices)
        ]
        document = self._top.result()
        called: list[Any] = []
        for choice in choices:
            message = choice["message"] if isinstance(choice.get("message"), dict) else {}
            called.append(message.get("function_call"))
            if isinstance(calls := message.get("tool_calls"), list):
                message["tool_calls"] = list(with_ids(calls, document.get("id"), choice["index"]))
                called += [call.get("function") for call in calls if isinstance(call, dict)]
        document["object"] = self.object_name
        document["choices"] = choices
        if usage := self._usage or self._placeholder:
            document["usage"] = usage
        keys = ("id", "object", "created", "model", "choices", *document)
        return Aggregated(
            {key: document[key] for key in keys if key in document},
            finish_reasons=tuple(str(choice["finish_reason"]) for choice in choices),
            inferred=bool(self._unfinished),
            odd=fewer_than(self._expected, len(choices))
            + (("several choices have the same index",) if self._are_mixed else ())
            + not_json(function.get("arguments") for function in called if isinstance(function, dict)),
        )

    @property
    def _are_mixed(self) -> bool:
        """Whether one index stands for several choices (LiteLLM's completions: 0 for all). It has several finish
        reasons then, or one that the others' texts follow (LiteLLM 1.108 before llama.cpp), and the request asked for
        more choices than there are indexes; or a chunk has two with it."""
        goes_on = self._ended_twice or self._reopened
        return bool(self._ended_twice & self._twins or (goes_on and len(self._choices) < self._expected))

    def _choice(self, index: int, choice: dict[str, Any], finish_reason: Any, *, done: bool) -> dict[str, Any]:
        """The document's choice, given what was merged of it."""
        raise NotImplementedError


def _is_legacy(choices: Any) -> bool:
    """Whether these are choices of the legacy API, which have a text and nothing else that is said."""
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    return "text" in choices[0] and not {"delta", "message"} & choices[0].keys()


def _with_delta(choice: dict[str, Any], delta: Any) -> dict[str, Any]:
    """A choice whose delta is text alone, or not the answer's."""
    rest = {key: value for key, value in choice.items() if key != "delta"}
    # MiniMax's built-in search streams its results as a message of the role "tool"; they are not the answer.
    return rest | {"delta": {"content": delta}} if isinstance(delta, str) else rest


class ChatAggregator(CompletionAggregator):
    object_name = "chat.completion"
    choice_rules = _CHOICE
    # Those of the legacy API are known by their choices: gateways give chat's chunks its name.
    objects = tuple(name for name in OBJECTS if name.startswith("chat."))

    def knows(self, chunk: dict[str, Any], event: str = "") -> bool:
        return super().knows(chunk, event) and not _is_legacy(chunk.get("choices"))

    def _choice(self, index: int, choice: dict[str, Any], finish_reason: Any, *, done: bool) -> dict[str, Any]:
        message = _message(choice.pop("delta", None), choice.pop("message", None))
        if choice.get("text") in (None, "", message["content"]):
            choice.pop("text", None)  # Together sends its content twice
        if not finish_reason:
            # Two of the reasons have the names of the members that they are about.
            calls = (key for key in ("tool_calls", "function_call") if message.get(key))
            finish_reason = next(calls, "stop") if done else "length"
        return {"index": index, "message": message, **choice, "finish_reason": finish_reason}


def _message(delta: Any, whole: Any) -> dict[str, Any]:
    """The answer's message. `whole` is a full message that some upstreams send beside the deltas (Perplexity, Writer)
    or in place of them (MiniMax): it fills in what the deltas left out."""
    message: dict[str, Any] = delta if isinstance(delta, dict) else {}
    if isinstance(whole, dict):
        message |= {key: value for key, value in whole.items() if not message.get(key)}
    stub = message.get("function_call")
    if isinstance(stub, dict) and not any(stub.values()):
        del message["function_call"]
    # Required in every direct answer, whether or not a delta has them.
    message["role"] = message.get("role") or "assistant"
    message.setdefault("content", None)
    return {key: message[key] for key in ("role", "content", *message)}


def _cannot_stream(request: Request) -> str | None:
    audio = request.get("audio")
    modalities = request.get("modalities")
    # With "stream: true" the only audio format is pcm16 (API reference, chat, `audio.format`).
    if isinstance(modalities, list) and "audio" in modalities and isinstance(audio, dict):
        audio_format = audio.get("format")
        if audio_format != "pcm16":
            named = printable(audio_format) if isinstance(audio_format, str) else "that it has"
            return f"audio output in the format {named} cannot be streamed, only pcm16 can"
    return None


# The other direction

# What each chunk has of the document, and what comes once and in its own place; all else comes once, in the last one
# that has a choice.
_IN_EACH_CHUNK: Final = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
_IN_ITS_PLACE: Final = frozenset(("object", "choices", "usage"))
_OF_A_CHOICE: Final = frozenset(("index", "message", "logprobs", "finish_reason"))
# What a model says before its content, the members of a message that are texts, and those that have their own way.
_BEFORE_CONTENT: Final = ("reasoning_content", "reasoning", "reasoning_text", "reasoning_details", "thinking_blocks")
_IN_ITS_OWN_WAY: Final = frozenset(
    (*_BEFORE_CONTENT, "role", "content", "refusal", "function_call", "tool_calls", "audio")
)
# Where the calls of each kind have the text that comes in pieces.
_CALLED_WITH: Final = (("function", "arguments"), ("custom", "input"))

_EMPTY: Final[tuple[Any, ...]] = (None, "", [], {})

type OfChoice = Callable[[int, dict[str, Any]], Iterator[dict[str, Any]]]


def chunks_of(
    document: dict[str, Any], name: str, of_choice: OfChoice, *, with_usage: bool
) -> Iterator[dict[str, Any]]:
    """The chunks of a document with choices. `name`: their `object`; `of_choice`: those of a choice, given its place.

    With usage they have it as null, but for the last, which has no choice (API reference, `stream_options`)."""
    each: dict[str, Any] = {
        key: document[key] for key in _IN_EACH_CHUNK if key in document and may_be_said_again(document[key])
    }
    each["object"] = name
    once = {key: value for key, value in document.items() if key not in _IN_ITS_PLACE and key not in each}
    if once.get("error") and error_in({"error": once["error"], "choices": document["choices"]}) is None:
        del once["error"]  # it says nothing, but clients take any error in a chunk for a failure
    usage = {"usage": None} if with_usage else {}
    chunks = (chunk for index, choice in enumerate(_apart(document["choices"])) for chunk in of_choice(index, choice))
    last = next(chunks)
    for chunk in chunks:
        yield {**each, "choices": [last], **usage}
        last = chunk
    yield {**each, **once, "choices": [last], **usage}
    if with_usage and document.get("usage") is not None:
        yield {**each, "choices": [], "usage": document["usage"]}


def _apart(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choices whose indexes tell them apart: where one has that of another (LiteLLM's completions: 0 for all), clients
    would append its text to the other's, so their places number all of them."""
    indexes = {
        index if type(index := choice.get("index")) is int else position for position, choice in enumerate(choices)
    }
    return choices if len(indexes) == len(choices) else [{**choice, "index": None} for choice in choices]


def has_choices(document: Any) -> bool:
    """Whether a document has choices that can be told."""
    choices = document.get("choices") if isinstance(document, dict) else None
    return isinstance(choices, list) and bool(choices) and all(isinstance(choice, dict) for choice in choices)


def chunks_of_choice(position: int, choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks' one choice, over and over. `position`: its index, unless it has one."""
    index = choice.get("index")
    index = index if type(index) is int else position
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    # One number for the whole answer (gateways) has no place in a chunk: clients look for lists in it, and fail.
    logprobs = said if isinstance(said := choice.get("logprobs"), dict) else None
    left = dict(logprobs or {})
    no_tokens = {key: None for key in ("content", "refusal") if key in left}
    # A skeleton, which has no tokens either, stays one.
    without = {"logprobs": no_tokens if left and left == no_tokens else None} if "logprobs" in choice else {}

    def chunk(delta: dict[str, Any], said: dict[str, Any] = without) -> dict[str, Any]:
        return {"index": index, "delta": delta, **said, "finish_reason": None}

    def texts(key: str, text: str) -> Iterator[dict[str, Any]]:
        tokens = left.get(key) if key in no_tokens else None
        cut = by_tokens(text, tokens) if isinstance(tokens, list) and tokens else None
        if cut is None:
            yield from (chunk({key: piece}) for piece in pieces(text))
            return
        left[key] = None
        for piece, of_piece in cut:
            yield chunk({key: piece}, {"logprobs": no_tokens | {key: of_piece}})

    # Members without anything in them come with the role, as OpenAI's refusal does.
    begin = {key: value for key, value in message.items() if value in _EMPTY}
    begin["role"] = message.get("role") or "assistant"
    begin["content"] = "" if isinstance(message.get("content"), str) else None
    if message.get("refusal"):
        begin["refusal"] = ""
    begins_tokens: dict[str, Any] = {"logprobs": {key: [] if left[key] else None for key in no_tokens}}
    message = {key: value for key, value in message.items() if value not in _EMPTY}
    saying = [key for key in (*_BEFORE_CONTENT, "content", "refusal") if key in message]
    calling = _calling(message)
    if not saying and _calls_once(message):
        begin |= next(calling, {})
    has_tokens = any(left[key] for key in no_tokens)
    yield chunk({key: begin[key] for key in ("role", "content", *begin)}, begins_tokens if has_tokens else without)
    for key in saying:
        said = message[key]
        yield from texts(key, said) if isinstance(said, str) else [chunk({key: said})]
    yield from map(chunk, calling)
    yield from map(chunk, _audible(message["audio"]) if "audio" in message else ())
    if rest := {key: value for key, value in message.items() if key not in _IN_ITS_OWN_WAY}:
        yield chunk(rest)
    last = {key: value for key, value in choice.items() if key not in _OF_A_CHOICE and key != "delta"}
    is_left = any(value is not None for value in left.values()) or logprobs == {}
    yield (
        chunk({}, {"logprobs": left} if is_left else without) | last | {"finish_reason": choice.get("finish_reason")}
    )


def _calls_once(message: dict[str, Any]) -> bool:
    """Whether a message has one call, which OpenAI begins together with the role then."""
    calls = message.get("tool_calls", [])
    return isinstance(calls, list) and len(calls) + ("function_call" in message) == 1


def _calling(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The deltas of a message's calls: first the name, with the id, then the arguments in pieces."""
    function = message.get("function_call")
    if isinstance(function, dict) and isinstance(text := function.get("arguments"), str):
        yield {"function_call": function | {"arguments": ""}}
        yield from ({"function_call": {"arguments": piece}} for piece in pieces(text))
    elif "function_call" in message:
        yield {"function_call": function}
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list):
        yield {"tool_calls": calls}
    for position, call in enumerate(calls if isinstance(calls, list) else ()):
        if not isinstance(call, dict):
            continue
        member, key = next(
            ((kind, text) for kind, text in _CALLED_WITH if isinstance(call.get(kind), dict)), _CALLED_WITH[0]
        )
        called = call.get(member)
        text = called.get(key) if isinstance(called, dict) else None
        begin = call | ({member: called | {key: ""}} if isinstance(called, dict) and isinstance(text, str) else {})
        yield {"tool_calls": [{"index": position} | begin | {"index": position}]}
        for piece in pieces(text) if isinstance(text, str) else ():
            yield {"tool_calls": [{"index": position, member: {key: piece}}]}


def _audible(audio: Any) -> Iterator[dict[str, Any]]:
    """The deltas of a message's audio: what is heard, as text and as sound, between its id and when it expires."""
    if not isinstance(audio, dict):
        yield {"audio": audio}
        return
    transcript, data = audio.get("transcript"), audio.get("data")
    texts = {"transcript": transcript, "data": data}
    last = {"expires_at": audio["expires_at"]} if "expires_at" in audio else {}
    rest = {key: value for key, value in audio.items() if key not in last and not isinstance(texts.get(key), str)}
    yield {"audio": rest | ({"transcript": ""} if isinstance(transcript, str) else {})}
    if isinstance(transcript, str):
        yield from ({"audio": {"transcript": piece}} for piece in pieces(transcript))
    if isinstance(data, str):
        yield from ({"audio": {"data": piece}} for piece in base64_pieces(data))
    if last:
        yield {"audio": last}


def _events_of(document: Any, asked: Asked) -> Iterator[dict[str, Any]] | None:
    if not has_choices(document):
        return None
    return chunks_of(document, "chat.completion.chunk", chunks_of_choice, with_usage=asked.with_usage)


CHAT: Final = Endpoint("chat", ("/chat/completions",), ChatAggregator, _events_of, _cannot_stream)
