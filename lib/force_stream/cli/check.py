"""`force-stream check`: look at a rules file without a proxy."""

import argparse
import sys
from pathlib import Path

from ..rules.describe import describe, in_words
from ..rules.file import RulesError, check_rules, parse_rules, read_file
from ..rules.rule import Rule
from ..wire.text import printable
from .exits import Failed


def run(options: argparse.Namespace) -> int:
    """Print every mistake, or else a line for each rule."""
    path = Path(options.file).expanduser()
    try:
        text = read_file(path)
    except RulesError as error:
        raise Failed(f"{error}") from error
    name = printable(path.name)
    rules, mistakes = check_rules(text, name)
    for line in mistakes:
        print(line, file=sys.stderr)
    if mistakes:
        return 1
    for rule in rules:
        print(describe(rule))
        for line in in_words(rule):
            print(f"  {line}")
    if not any(rule.watches_streams or rule.cors for rule in rules):
        print(f"{name}: no rule forces anything; a rule needs force_upstream_stream: true for that", file=sys.stderr)
    return 0


def rules_in(file: str, code: int = 1) -> tuple[Rule, ...]:
    """The rules of a file with which a proxy is to start. `code`: the exit code if it has a mistake."""
    path = Path(file).expanduser()
    try:
        return parse_rules(read_file(path), path.name)
    except RulesError as error:
        raise Failed(f"{error}", code) from error
