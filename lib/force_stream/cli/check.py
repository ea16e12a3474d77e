"""`force-stream check`: a rules file looked at without a proxy."""

import sys
from pathlib import Path

from ..rules.describe import describe
from ..rules.file import check_rules


def check(name: str) -> int:
    """Print every mistake, or else a line for each rule. The exit code."""
    path = Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        print(f"{path}: cannot be read: {reason}", file=sys.stderr)
        return 1
    rules, mistakes = check_rules(text, path.name)
    for line in mistakes:
        print(line, file=sys.stderr)
    if mistakes:
        return 1
    for rule in rules:
        print(describe(rule))
    if not any(rule.force_upstream_stream or rule.learn for rule in rules):
        print(f"{path.name}: no rule forces anything; a rule does with force_upstream_stream: true", file=sys.stderr)
    return 0
