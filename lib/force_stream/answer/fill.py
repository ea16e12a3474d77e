"""Constants that an upstream's direct answers have and its streams lack, put into a finished document.

Knows paths: names of members with dots between them, and `*` for every item of a list. Must not know APIs or rules.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from ..wire import jsontext

# A step of digits alone would look like a place in a list, which has no name.
_PATH: Final = re.compile(r"((\*|(?![0-9]+\.)[^\s.*]+)\.)*(?![0-9]+$)[^\s.*]+")


def is_path(text: str) -> bool:
    """Whether this is a path that ends with a member's name."""
    return text.isprintable() and _PATH.fullmatch(text) is not None


def spelled(constants: Mapping[str, Any]) -> str:
    """Constants by their paths as one plain value, which can travel with a flow; "" for none."""
    return jsontext.dumps(dict(constants)).decode() if constants else ""


def fill(document: Any, constants: str) -> None:
    """Put each constant into the document, wherever the parent of its path is an object without that member."""
    for path, value in jsontext.loads(constants).items() if constants else ():
        *steps, name = path.split(".")
        for parent in _at(document, steps):
            if isinstance(parent, dict):
                parent.setdefault(name, value)


def _at(document: Any, steps: list[str]) -> list[Any]:
    """The values at these steps."""
    found = [document]
    for step in steps:
        if step == "*":
            lists = [value for value in found if isinstance(value, list)]
            for value in lists:
                value[:] = jsontext.with_items_read(value)
            found = [item for value in lists for item in value]
        else:
            found = [value[step] for value in found if isinstance(value, dict) and step in value]
    return found
