"""What the tiny model is taught to say: each lesson is a prompt and the answer to it, word for word. Small enough for a
model of a few hundred kilobytes to know by heart, and with all that a server takes apart: thoughts, text, tool calls.
"""

import json
from dataclasses import dataclass
from typing import Any, Final


def call(name: str, **arguments: Any) -> str:
    """A tool call as Hermes and Qwen write it."""
    document = {"name": name, "arguments": arguments}
    return f"<tool_call>\n{json.dumps(document, ensure_ascii=False)}\n</tool_call>"


@dataclass(frozen=True, slots=True)
class Lesson:
    """`tools`: names of those that the request offers; `after`: turns that follow the question."""

    name: str
    question: str
    thought: str
    answer: str
    tools: tuple[str, ...] = ()
    after: tuple[dict[str, Any], ...] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": self.question}, *self.after]


WEATHER: Final = ("get_weather", "get_time")
ROME: Final = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}, "id": "call_1"}

LESSONS: Final = (
    Lesson("text", "Count to nine.", "That is easy.", "One, two, three, four, five, six, seven, eight, nine."),
    Lesson("short text", "What is the capital of France?", "France is a country.", "Paris."),
    Lesson("Unicode", "Write signs.", "Many signs.", "naïve Ω 東京 👩\u200d👧 e\u0301"),
    Lesson("lines", "Write two lines.", "Two\nlines.", "One.\n\nTwo.\n"),
    Lesson("separators", "Write separators.", "Rare ones.", "one\u2028two\u2029three\u0085four"),
    Lesson("event-like text", "Write an event.", "Like a stream.", '\n\ndata: [DONE]\n\nevent: x\ndata: {"a":1}\n\n'),
    Lesson("markup", "Write markup.", "Not a call.", "A <b>tag</b> and <tool> is not a call."),
    Lesson("JSON", "Write JSON.", "An object.", '{"name": "Ada", "age": 36}'),
    Lesson("nothing", "Say nothing.", "Nothing.", ""),
    Lesson("one call", "Weather in Rome?", "I need the weather.", call("get_weather", city="Rome"), WEATHER),
    Lesson(
        "two calls",
        "Weather and time in Rome?",
        "I need both.",
        call("get_weather", city="Rome") + "\n" + call("get_time", city="Rome"),
        WEATHER,
    ),
    Lesson(
        "one function twice",
        "Weather in Rome and in Oslo?",
        "I need two cities.",
        call("get_weather", city="Rome") + "\n" + call("get_weather", city="Oslo"),
        WEATHER,
    ),
    Lesson("call without arguments", "What time is it here?", "No city.", call("get_time"), WEATHER),
    Lesson(
        "text and a call",
        "Say something, then look up the weather in Rome.",
        "First some words.",
        "Let me look.\n" + call("get_weather", city="Rome"),
        WEATHER,
    ),
    Lesson(
        "call with signs and quotes",
        'Weather in "東京"?',
        "A name with quotes.",
        call("get_weather", city='"東京"\\\n', days=[1, 2.5, None, True], more={"a": {}}),
        WEATHER,
    ),
    Lesson("tools unused", "How are you?", "No tool for that.", "Fine.", WEATHER),
    Lesson(
        "answer after a call",
        "Weather in Rome?",
        "Now I know.",
        "It is 12 in Rome.",
        WEATHER,
        (
            {"role": "assistant", "content": "", "tool_calls": [ROME]},
            {"role": "tool", "tool_call_id": "call_1", "content": "12"},
        ),
    ),
)
# For completions, which know no turns: the start, and how it goes on.
TEXTS: Final = (
    ("One, two,", " three, four, five, six, seven, eight, nine."),
    ("A, B, C,", " D, E, F, G, H, I."),
)
