"""`python -m force_stream`: what `force-stream aggregate` does, with Python alone."""

import argparse
import sys

from .cli import aggregate


def main(arguments: list[str] | None = None) -> int:
    """The exit code, as `aggregate.run` has it."""
    parser = argparse.ArgumentParser(
        prog="python -m force_stream",
        description="Read event streams and print the JSON document that each one makes; what was odd about it goes to "
        "stderr.",
    )
    aggregate.add_arguments(parser)
    return aggregate.run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
