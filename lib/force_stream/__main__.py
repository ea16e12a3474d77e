"""`python -m force_stream`: what `force-stream aggregate` does, with Python alone."""

import argparse
import sys

from .cli import aggregate
from .cli.exits import exit_code


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code of `aggregate.run`."""
    parser = argparse.ArgumentParser(
        prog="python -m force_stream",
        description="Read event streams and print the JSON document that each one makes. Anything odd goes to stderr.",
    )
    aggregate.add_arguments(parser)
    return exit_code(aggregate.run, parser.parse_args(arguments), parser.prog)


if __name__ == "__main__":
    sys.exit(main())
