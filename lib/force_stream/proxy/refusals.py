"""What upstreams say about streaming when they refuse a request.

Knows these words, and no others; must not know mitmproxy or rules.
"""

import glob
import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from ..errors.events import error_in
from ..wire import jsontext

# Bytes. A longer error is a web page; if it mentions streams, that is not about this request.
LONGEST_ERROR: Final = 64 * 1024
# Characters, of one text and of all. Longer ones quote something.
_LONGEST_TEXT: Final = 4096
_MOST_TEXT: Final = 16 * 1024
_MOST_TEXTS: Final = 100
_DEEPEST: Final = 8


class Demand(Enum):
    """How the request has to be sent instead, by the upstream's own words."""

    STREAM = "as a stream"
    PLAIN = "plain"
    NO_OPTIONS = "without stream_options"


class _Said(NamedTuple):
    """What an error says: its sentences, and the members of the request that it names."""

    texts: list[str]
    names: set[str]


def demand_of(
    status: int, body: bytes, *, streamed: bool, options: bool = False, phrases: Sequence[str] = ()
) -> Demand | None:
    """What an answer demands of a request that asked for a stream (`streamed`), with `options`, or did not; None if it
    refuses none of that. `phrases`: further words by which this upstream speaks of streaming."""
    said = _said(status, body)
    if said is None:
        return None
    if options and _names_options(status, said):
        return Demand.NO_OPTIONS
    if streamed and status == 406:
        return Demand.PLAIN  # `Accept: text/event-stream` is ours
    # That stream options need a stream is no wish for one: the client sent them without.
    texts = [_OPTIONS.sub("options", text) for text in said.texts if streamed or not _OPTIONS.search(text)]
    wanted = Demand.PLAIN if streamed else Demand.STREAM
    demands = {_demand_in(text) for text in texts}
    if wanted in demands or any(phrase.casefold() in text.casefold() for phrase in phrases for text in said.texts):
        return wanted
    if "stream" in said.names and _is_about_request(status) and demands <= {None}:
        # By name alone: of a request that streams, that has to be why. One that does not may just lack it.
        return wanted if streamed or any(map(_MISSING.search, texts)) else None
    return None


# Reading an error

# Where errors quote the request: what a user wrote must not count.
_QUOTES: Final = frozenset(
    ["input", "ctx", "request", "body", "prompt", "messages", "headers", "url", "value", "received", "request_id", "id"]
)
_NAMES: Final = frozenset(["param", "parameter", "loc", "field", "keys", "argument", "property"])
# pydantic's message as text.
_QUOTED: Final = re.compile(r"input_value=.*?(?=, input_type=|$)|['\"]input['\"]: .*?(?=\}, \{|$)", re.DOTALL)


def _said(status: int, body: bytes) -> _Said | None:
    """What an error says; None where the answer is no error."""
    if not 200 <= status < 600 or 300 <= status < 400 or len(body) > LONGEST_ERROR:
        return None
    text = body.decode("utf-8-sig", errors="replace")
    try:
        document = jsontext.loads(text)
    except (ValueError, RecursionError):
        document = text
    if status < 400 and not (isinstance(document, dict) and not document.get("choices") and error_in(document)):
        return None
    said = _Said([], set())
    _read(document, said, "", 0)
    return said


def _read(value: Any, said: _Said, key: str, depth: int) -> None:
    if depth > _DEEPEST or sum(map(len, said.texts)) > _MOST_TEXT or len(said.texts) > _MOST_TEXTS:
        return
    if isinstance(value, str):
        if key in _NAMES:
            said.names.add(value.lower())
        if value.lstrip().startswith("{"):
            try:
                # A gateway quotes the error of its upstream (OpenRouter's metadata.raw).
                _read(jsontext.loads(value), said, key, depth + 1)
                return
            except (ValueError, RecursionError):
                pass
        said.texts.append(_QUOTED.sub("", value[:_LONGEST_TEXT]))
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name.lower() not in _QUOTES:
                _read(inner, said, name.lower(), depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _read(inner, said, key, depth + 1)


# 401 to 429 where the credentials, the account, or the time is at fault, whatever the words mention.
_NOT_ABOUT_REQUEST: Final = frozenset((401, 402, 404, 407, 408, 409, 413, 429))


def _is_about_request(status: int) -> bool:
    return 400 <= status < 500 and status not in _NOT_ABOUT_REQUEST


_MISSING: Final = re.compile(r"\b(required|missing)\b", re.IGNORECASE)
_OPTIONS: Final = re.compile(r"stream[_ ]?options|include[_ ]usage", re.IGNORECASE)
_REJECTED: Final = re.compile(
    r"\b(not|un\w+|extra\w*|invalid|forbidden)\b", re.IGNORECASE
)  # not permitted, unknown, unsupported, unrecognized, unexpected, extraneous


def _names_options(status: int, said: _Said) -> bool:
    naming = [text for text in (*said.texts, *said.names) if _OPTIONS.search(text)]
    if _is_about_request(status):
        return bool(naming)
    return any(_REJECTED.search(text) for text in naming)  # a gateway makes a 500 of its upstream's 400


# The grammar of the words

# What is said in other words is put into these: "stream" and "nonstream", and for Chinese the English ones.
_ENGLISH: Final = {
    chinese: f" {english} "
    for english, words in {
        "nonstream": "非流式 非流",
        "stream": "流式 流输出 流模式 流方式 流调用",
        "not support": "暂不支持 不支持",
        "not allowed": "不允许",
        "not available": "不可用",
        "cannot use": "无法 不能",
        "only": "仅 只",
        "support": "支持",
        "allow": "允许",
        "use": "使用",
        "must": "必须 需要 须",
        "please": "请",
        "enable": "开启 启用 打开",
        "set": "设置",
        "disable": "关闭",
        "to": "为",
        "can": "能",
        "as": "以",
    }.items()
    for chinese in words.split()
}
_MEANINGLESS: Final = dict.fromkeys(("输出", "模式", "方式", "调用", "请求", "响应", "的"), " ")
_CHINESE: Final = {**_ENGLISH, **_MEANINGLESS, "，": ", ", "。": ". ", "：": ": ", "；": "; "}
# "请求" (request) before "请" (please).
_CHINESE_WORD: Final = re.compile("|".join(sorted(_CHINESE, key=len, reverse=True)))
_SPELLINGS: Final = (
    (r"(?<=[a-z])(?=[A-Z][a-z])", " "),  # StreamingNotSupported
    (r"\bs(?:erver[- ])?s(?:ent[- ])?e(?:vents?)?\b", "stream"),  # SSE, server-sent events
    (r"[\"'`´‘’“”*\\<>()\[\]{}]", ""),
    (r"[+&]", " and "),
    (r"\bnon[-_ ]?stream(ing|ed)?\b|\bwithout stream(ing)?\b|\bnot streaming\b", "nonstream"),
    (
        r"\bstream(ing)?\s*(?::|=+|\bto|\bas|\bis|set to|\bequals?)?\s*\b(false|off|0)\b(?! or (?:true|on|1)\b)",
        "nonstream",
    ),
    (r"\bstream(ing)?\s*(?::|=+)\s*(true|on|1)\b", "stream"),
    (r"\bdoes ?nt\b|\bdoesnt\b|\bdont\b|\bisnt\b|\barent\b|\bis no longer\b", "not"),
    (r"\bcant\b|\bcan not\b|\bunable to\b", "cannot"),
    (r"\s+", " "),
)
_CODE: Final = re.compile(r"[\w.]+")

# A word that is the request's `stream`, and none of the audio streams, upstreams and file_streams there are.
_S: Final = (
    r"(?<![\w./-])(?<!audio )(?<!video )(?<!image )(?<!input )(?<!data )(?<!file )(?<!byte )(?<!media )(?<!live )"
    r"stream(?:ing|ed)?(?![\w/]|-\w*\d)"
)
_N: Final = r"\bnonstream\b"
# Words that do not change the subject.
_W: Final = (
    r"(?: (?!because|closed?|ended|fail|error|reset|timed|broken|interrupt|abort|disconnect|could|while|key|token|"
    r"after|before|found|but|so)[\w'/-]+)"
)
_KIND: Final = r"(?: (?:mode|parameter|param|option|flag|field|value|output|responses?|requests?|calls?|api|support))"
_CAN: Final = (
    r"(?:support\w*|allow\w*|available|permit\w*|enabled?|possible|implement\w*|accept\w*|compatible|includ\w*|"
    r"combin\w*|used?|usable|offer\w*|provid\w*|valid|work\w*)"
)
_NOT: Final = r"(?:not|cannot|never|without)"
_BAD: Final = r"(?:unsupported|disabled|unavailable|forbidden|disallowed|prohibited)"
_MUST: Final = r"(?:requires?|needs?|must|should|ha[sv]e to|please)"
_NEEDED: Final = r"(?:required|mandatory|recommended|needed|necessary)"
_HOW: Final = (
    r"(?: (?:be|have|set|use|using|enable|the|a|in|via|with|your|requests?|calls?|call|to|includ\w+|specify|pass|add|"
    r"ask|for|as|done|made|sent|send|only|it|this|model|turn|on|make|parameter|param|option|switch|when|access\w*|through|by))"
)
_DO: Final = r"(?<!not )(?<!to )(?<!cannot )\b(?:set|use|enable|add|pass|specify|try|turn on|switch to)\b"
_THE: Final = r"(?: (?:the|a|in|parameter|with|your|request|option|and|to))"


def _demanded(wanted: str, refused: str) -> str:
    """The pattern of the words that want one and refuse the other."""
    return "|".join(
        (
            # This model only supports the one; it is available only as the one.
            rf"\bonly{_W}{{0,3}}? (?:{_CAN}|call\w*|in|with|via|through|as|when|by|for|using|take\w*|serve\w*)"
            rf"(?: (?:the|in|with|via|through|as|when|by|a|using|be|to|for|use|call))*{_KIND}? {wanted}",
            rf"\bonly {wanted}{_KIND}{{0,2}} (?:is|are){_W}? {_CAN}",
            rf"{wanted}[ -]only\b",
            # The one is required. Please use the one.
            rf"{wanted}{_KIND}{{0,2}}(?: is| are| be)?(?: strongly)? {_NEEDED}",
            rf"\b{_MUST}{_HOW}{{0,7}} {wanted}",
            rf"{_DO}{_THE}* {wanted}",
            # The other is not supported; this is not supported with the other; the other is disabled.
            rf"{refused}{_W}{{0,5}}? {_NOT}{_W}{{0,2}}? {_CAN}(?! false\b)",
            rf"\b{_NOT}{_W}{{0,3}}? {_CAN}{_W}{{0,5}}? {refused}",
            rf"{refused}{_KIND}{{0,2}}(?: is| are)?(?: \w+)? {_BAD}\b",
            rf"\b(?:{_BAD}|incompatible)(?: with| in| for| when)? {refused}",
            rf"\b(?:unsupported|invalid|unrecognized|unknown|unexpected|extra)(?: request)? "
            rf"(?:value|parameter|argument|field|option|key|property|input)s?(?: supplied)?:? {refused}"
            r"(?! (?:does )?not support false)",
            rf"\bcannot(?: be)? {refused}",
            rf"\b(?:disable|turn off){_THE}* {refused}",
        )
    )


_STREAM: Final = re.compile(
    "|".join(
        (
            _demanded(_S, _N),
            # Not "must be true or false".
            rf"{_S}{_KIND}? (?:must|should|needs? to|ha[sv]e? to)(?: (?:be|set|to|explicitly|always|equal)){{0,4}} "
            r"(?:true|enabled|on|used|1|specified|provided)\b(?! or|/|, ?false| ?\|)",
            # For plain requests, something else is required, or something is too large.
            rf"\b(?:must|should|too large|too long|too many|exceed\w*){_W}{{0,8}}? (?:for|in|with|when|of) {_N}",
            rf"{_N}{_KIND}?{_W}{{0,3}}? (?:must|limited)\b",
            rf"{_S} (?:not|does not) support false",
        )
    )
)
_PLAIN: Final = re.compile(
    "|".join(
        (
            _demanded(_N, _S),
            rf"{_S}{_KIND}? (?:must|should|needs? to|ha[sv]e? to)(?: (?:be|set|to|explicitly|always|equal)){{0,4}} "
            r"(?:false|disabled|off|0)\b",
            rf"\bverif\w+ (?:to|before|for)(?: use| using)? {_S}",  # OpenAI, of an organization
            rf"{_S} (?:not|does not) support true",
        )
    )
)


def _demand_in(text: str) -> Demand | None:
    """What a sentence demands, whatever was asked."""
    text = _normal(text)
    found = [(match.start(), demand) for pattern, demand in _WORDS if (match := pattern.search(text))]
    # "Streaming is not supported, use a plain request": what is said first counts.
    return min(found, key=lambda each: each[0])[1] if found else None


_WORDS: Final = ((_STREAM, Demand.STREAM), (_PLAIN, Demand.PLAIN))


def _normal(text: str) -> str:
    """A sentence in the words of the grammar."""
    if _CODE.fullmatch(text):
        text = text.replace("_", " ")
    camel, *others = _SPELLINGS
    text = re.sub(*camel, text).lower()
    if not text.isascii():
        text = _CHINESE_WORD.sub(lambda word: _CHINESE[word[0]], text)
    for pattern, spelling in others:
        text = re.sub(pattern, spelling, text)
    return text


# What a refusal is about

# Members that every request has, or that the words name as what is wanted.
_NEVER_NAMED: Final = frozenset(["model", "messages", "input", "prompt", "stream", "stream_options"])
# Of a request's members, and characters of their names. More are not looked for in a refusal: a client may make up any.
_MOST_MEMBERS: Final = 100
_LONGEST_NAME: Final = 100
# What refusals call by another name than the request's member.
_CALLED: Final = {
    "tools": r"tools?|function[ -]calls?|function[ -]calling|tool[_ -]?\w*",
    "functions": r"functions?",
    "use_beam_search": r"beam[ _-]?search",
    "n": r"[`'\"]n[`'\"]|n ?[=>] ?\d|multiple (?:choices|completions)",
    "response_format": r"response[_ ]?format|structured outputs?|json(?: mode| schema)?",
    "audio": r"audio",
    "modalities": r"modalit\w+",
}
_CONDITION: Final = re.compile(r"\b(with|when|while|if|for|using|unless|and|in stream\w*)\b|\+", re.IGNORECASE)
_SUBJECT: Final = re.compile(
    r"\b(model|organi[sz]ation|account|deployment|provider|plan|endpoint|engine|backend|server|api|project|tier)s?\b|模型",
    re.IGNORECASE,
)


def scope_of(status: int, body: bytes, members: Mapping[str, object]) -> tuple[str, ...] | None:
    """Those of a request's members that a refusal to stream is about: requests that have all of them cannot stream (of
    none: no request can). None where it cannot be told, as for a limit that only this request is above."""
    if len(members) > _MOST_MEMBERS or any(len(name) > _LONGEST_NAME for name in members):
        return None
    said = _said(status, body) or _Said([], set())
    text = "\n".join((*said.texts, *said.names))
    named = tuple(name for name in members if members[name] and name not in _NEVER_NAMED and _is_named(name, text))
    if named or _SUBJECT.search(text) or not _CONDITION.search(text):
        return named
    return None


def _is_named(name: str, text: str) -> bool:
    pattern = _CALLED.get(name) or re.escape(name).replace("_", "[_ ]")
    return re.search(rf"(?<![\w-])(?:{pattern})(?![\w-])", text, re.IGNORECASE) is not None


# The rule to paste

_LONGEST_MODEL: Final = 100


def rule_to_paste(host: str, model: str, *, forced: str = "stream", stream_options: bool = True) -> str:
    """The rule that makes what was learned last, as YAML in one line. `forced`: what the upstream is asked for."""
    name = re.sub(r"[^\w.+-]+", " ", f"{host} {model[:_LONGEST_MODEL]}")[:80].strip(" .+-")
    models = f", models: [{_quoted(_pattern(model))}]" if model else ""
    options = "" if stream_options else ", stream_options: null"
    return f"- {{name: {_quoted(name)}, hosts: [{_quoted(host)}]{models}, force_upstream_{forced}: true{options}}}"


def _pattern(model: str) -> str:
    """A wildcard for this model, and for no other whose name can be printed."""
    escaped = "".join(glob.escape(c) if c.isprintable() else "?" for c in model[:_LONGEST_MODEL])
    return escaped if len(model) <= _LONGEST_MODEL else f"{escaped}*"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # which is YAML too
