"""Text that an upstream sends where a chunk should be: where it is, whether it plainly says that something failed, and
which HTTP status it names.

Knows how servers and gateways word failures, in English and Chinese. Must not know codes, events or replies.
"""

import re
from http import HTTPStatus
from typing import Any, Final

from ..wire.jsontext import Number

# Characters. Longer words are an answer or a page; what they are is said at the beginning.
_LONGEST: Final = 2000
_SHORT: Final = 300
# Text that is nested deeper than this is not meant for a person.
_DEPTH: Final = 4
_BREADTH: Final = 32


def normal(name: str) -> str:
    """A name without what differs between spellings: `RateLimitExceeded`, `RATE_LIMIT_EXCEEDED`, `rate-limit`."""
    return "".join(filter(str.isalnum, name[:_LONGEST])).casefold()


# What many APIs send as `code`, `status` or `message` for success, and what they send for nothing.
_FINE: Final = frozenset(
    (
        *("ok", "success", "successful", "succeeded", "succeed", "true", "false", "null", "none", "nil", "undefined"),
        *("noerror", "normal", "20000", "成功", "请求成功", "操作成功", "调用成功"),
    )
)


def means_success(code: Any) -> bool:
    """Whether a code, a status or a message says that all is well, or nothing: 0, "0000", 200, "success", null."""
    if isinstance(code, bool | dict | list) or not code:
        return True
    text = normal(code.text if isinstance(code, Number) else str(code))
    if text.isdecimal():
        return not text.strip("0") or text in _FINE or (len(text) == 3 and text < "400")
    return not text or text in _FINE


# Members that say something, the plainest first.
_WORDS: Final = (
    *("message", "errormessage", "errormsg", "errmsg", "errmessage", "msg", "statusmsg", "statusmessage"),
    *("detail", "errordescription", "description", "faultstring", "error", "errors", "fault", "reason", "title"),
)
# Members of an envelope, which say nothing: labels, times, counters, padding.
_ENVELOPE: Final = frozenset(
    (
        *("object", "model", "created", "createdat", "type", "event", "provider", "systemfingerprint", "servicetier"),
        *("index", "role", "status", "code", "timestamp", "time", "ts", "usage", "choices", "delta", "obfuscation"),
        *("p", "user", "version", "region", "host", "path", "errorcode", "errcode", "errortype", "finishreason"),
    )
)
_KEEPALIVE: Final = re.compile(
    r":?\s*[\[(<{]?\s*(?:(?:[\w-]+ )?"
    r"(?:keep[ _-]?alive|heart[ _-]?beat|ping|pong|processing|waiting|connected|hb)|alive|open)(?!\w)"
    r"[\s\d:.,+TZ-]*[\])>}]?[\s.…]*",
    re.IGNORECASE,
)


def is_keepalive(text: str) -> bool:
    """Whether a text only keeps the connection open: "ping", ": OPENROUTER PROCESSING" (mnfst/llm-gateway#2053)."""
    text = text.strip()
    if not text or (len(text) <= _SHORT and _KEEPALIVE.fullmatch(text)):
        return True
    # An event stream's comment line, which a gateway wrapped into an event.
    return text.startswith(":") and not says_error(text[1:])


def words_in(value: Any, depth: int = _DEPTH) -> str:
    """The text that an event says where a chunk should be; null, numbers, an envelope and keep-alives have none: ""."""
    if isinstance(value, str):
        text = value.strip()
        return "" if means_success(text) or is_keepalive(text) else text
    if not depth:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (words_in(item, depth - 1) for item in value[:_BREADTH])))
    if not isinstance(value, dict):
        return ""
    members = {normal(key): member for key, member in list(value.items())[:_BREADTH] if member is not None}
    for key in _WORDS:
        if key in members and (words := words_in(members[key], depth - 1)):
            return words
    # Else its own texts, such as `notice`; lists and objects of other names hold data, such as citations.
    others = (member for key, member in members.items() if not (key in _ENVELOPE or key.endswith("id")))
    return "; ".join(words_in(member) for member in others if isinstance(member, str) and words_in(member))


def is_readable(text: str) -> bool:
    """Whether a text is one, as far as its beginning shows, and not bytes of which hardly any are text."""
    head = text.lstrip()[:_LONGEST]
    noise = sum(character == "\ufffd" or not (character.isprintable() or character.isspace()) for character in head)
    return 2 * noise <= len(head)


# HTTP's reason phrases (RFC 9110, and the older ones of RFC 2616 and RFC 4918), and what servers write in their place.
_PHRASES: Final = {
    **{normal(status.phrase): status.value for status in HTTPStatus if status >= 400},
    "requestentitytoolarge": 413,
    "contenttoolarge": 413,
    "payloadtoolarge": 413,
    "unprocessableentity": 422,
    "unprocessablecontent": 422,
    "internalerror": 500,
    "servererror": 500,
    "gatewaytimeout": 504,
    "ratelimitexceeded": 429,
    "overloaded": 529,
}
# Statuses that are HTTP's, nginx's (494 to 499), Cloudflare's (520 to 530) or Anthropic's (529).
_STATUSES: Final = {*(status.value for status in HTTPStatus if status >= 400), *range(494, 500), *range(520, 531)}
# A count, as in "error: 500 tokens too many".
_A_COUNT: Final = r"(?![\w.,]*\d)(?!\s*(?:k|ms|[kmg]?b|s|%|(?:token|char|byte|word|message|second|item|line)\w*)\b)"
_NUMBERED: Final = re.compile(
    # "Error code: 429 - {…}", "upstream error: 503 backend busy", "HTTP 429", "bad response status code 500"
    r"\b(?:error|failed|failure|status|http(?:/\d(?:\.\d)?)?)(?:[ _-]?(?:code|status|error)){0,3}"
    r"['\"]?\s*(?:[:=(\[,：]|is|was|of|with)?\s*['\"]?([45]\d\d)"
    + _A_COUNT
    # 状态码：429
    + r"|(?:状态码|错误码|错误代码)\s*[:：]?\s*([45]\d\d)(?!\d)"
    # {'message': …, 'code': 429}
    + r"|['\"](?:code|status|status_?code|http_?code)['\"]\s*:\s*['\"]?([45]\d\d)(?!\d)"
    # "503", "429: {…}", "[500] …"
    + r"|\A\W{0,2}([45]\d\d)\s*(?:[\]:({-]|\Z)",
    re.IGNORECASE,
)
_WITH_PHRASE: Final = re.compile(r"\b([45]\d\d)[\s:(-]{1,3}([a-z][a-z' -]{3,40})", re.IGNORECASE)


def status_in(text: str) -> int | None:
    """The HTTP status that words plainly name: "Error code: 429", "503 Service Unavailable", "Bad Gateway"."""
    text = text.strip()[:_LONGEST]
    for found in _NUMBERED.finditer(text):
        status = int(found[found.lastindex or 0])
        if status in _STATUSES:
            return status
    for found in _WITH_PHRASE.finditer(text):
        status, phrase = int(found[1]), normal(found[2])
        if any(named == status and phrase.startswith(each) for each, named in _PHRASES.items()):
            return status
    status = _PHRASES.get(normal(text), 0)
    return status if status in _STATUSES else None


# What stands before the words is possessive, or a line of underscores would be divided in every way there is.
_SAYS: Final = re.compile(
    # "error: …", "upstream error: …", "[ERROR] …", "litellm.RateLimitError: …", {'error': …
    r"[\W_]*+(?:(?:an?|the|internal|upstream|server|api|proxy|gateway|provider|backend|model|stream|streaming|"
    r"generation|inference|connection|network|runtime|unexpected|unknown|fatal|request|engine|service|llm|http|openai)\s+){0,3}"
    r"(?:[a-z_][\w.]*(?:error|exception)|error|exception|failure|fatal|panic|failed)"
    r"(?:[ _]code)?['\"]?\s*(?:[:：\[(\]]|\d|-\s|$)"
    r"|[\W_]*+traceback \(most recent call last\)"
    r"|[\W_]*+(?:(?:an?|the)\s+)?(?:\w+\s+){0,2}(?:error|exception)\s+(?:occurred|happened|while|during|in the)"
    r"|[\W_]*+(?:failed to|unable to|could ?n[o']t|cannot) (?:\w+ ){0,3}"
    r"(?:connect|reach|generate|process|complete|load|allocate|fetch|respond|decode|call|handle|read|parse|stream)"
    r"|[\W_]*+(?:错误|失败|异常|报错|请求失败|服务异常|系统错误|内部错误|服务器错误)",
    re.IGNORECASE,
)
_FAILURE: Final = re.compile(
    r"rate[ -]?limit(?:s|ed)?(?: (?:is |was |has been |have been )?(?:exceeded|reached|hit)|ed\b)|too many requests"
    r"|(?:quota|limit|budget|length|context|capacity|deadline)(?: \w+){0,2} (?:exceeded|exhausted|reached)"
    r"|exceed(?:s|ed) (?:your |the |its |my )?(?:\w+ ){0,3}(?:quota|limit|context|length|size|budget)"
    r"|\b(?:internal )?server error|service (?:is )?(?:temporarily |currently )?unavailable|temporarily unavailable"
    r"|bad gateway|gateway time-?out|\b(?:request|connection|upstream|operation|read|stream) timed? ?-?out"
    r"|\bover ?(?:loaded|capacity)\b|at capacity|no capacity"
    r"|\bunauthori[sz]ed\b|(?:invalid|incorrect|missing|expired) (?:api[ -]?key|token|credentials|authentication)"
    r"|(?:authentication|authorization|validation|generation|request) failed"
    r"|(?:permission|access) denied|\bforbidden\b"
    r"|connection (?:was )?(?:reset|refused|closed|aborted|lost|error|failed)|broken pipe|out of memory"
    r"|insufficient (?:balance|quota|credits?|funds)|model (?:\S+ )?(?:not found|does not exist)|something went wrong"
    r"|余额不足|欠费|超时|限流|过载|繁忙|请求过多|频率过高|次数限制|不可用|无权限|鉴权失败|敏感内容|稍后(?:再试|重试)"
    r"|(?:请求|服务|系统|调用|生成|处理|连接|网络|模型|接口|内部|服务器|上游).{0,12}(?:错误|失败|异常|出错)",
    re.IGNORECASE,
)
_DENIED: Final = re.compile(r"[\W_]*(?:no|0|zero|without(?: any)?) (?:errors?|failures?|exceptions?)\b", re.IGNORECASE)


# A gateway that says what it is about to do, or has done, about a failure.
_GOES_ON: Final = re.compile(
    r"[\W_]*+(?:retry|re-?tr(?:ied|ying)|re-?connect|fall(?:ing|en)? ?back|switch|recover|resum|warn|notice|note\b"
    r"|重试|正在重试|切换)",
    re.IGNORECASE,
)


def says_error(text: str) -> bool:
    """Whether a text that is not JSON plainly says that something failed. Ordinary words and keep-alives do not."""
    text = text.strip()[:_LONGEST]
    if _DENIED.match(text) or _GOES_ON.match(text):
        return False
    return _SAYS.match(text) is not None or (
        len(text) <= _SHORT and (_FAILURE.search(text) is not None or status_in(text) is not None)
    )
