"""How a subcommand ends: its exit code, and the line that says why."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Final

from ..wire.text import printable

_LONGEST_PROBLEM: Final = 1000

type Command = Callable[[argparse.Namespace], int]


class Failed(Exception):
    """A subcommand cannot do its work: why, in one line for a person, and the exit code."""

    def __init__(self, problem: str, code: int = 1) -> None:
        super().__init__(problem)
        self.code = code


def exit_code(run: Command, options: argparse.Namespace, name: str) -> int:
    """Run a subcommand. `name`: what it is called in a line that says what failed."""
    try:
        return run(options)
    except Failed as problem:
        print(f"{name}: {printable(str(problem), _LONGEST_PROBLEM)}", file=sys.stderr)
        return problem.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Nobody reads the output any more, as after `| head`. Python would complain when it flushes the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as if SIGPIPE had ended it
