"""The rules in force: those of the rules file, which is watched, and those of the option that names hosts.

Knows mitmproxy's options and its log; must not know flows, or what a rule does.
"""

import asyncio
import logging
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from mitmproxy import ctx, exceptions
from mitmproxy.log import ALERT

from ..rules.describe import changes
from ..rules.file import RulesError, parse_rules, read_file, with_value
from ..rules.rule import HOSTS_OPTION, Rule
from ..wire.text import counted

logger = logging.getLogger("force_stream")

# Seconds between two checks of the rules file; a change is to take effect within two.
INTERVAL: Final = 0.5


class RulesWatcher:
    """`rules`: those in force, in their order."""

    def __init__(self, default_file: Path, changed: Callable[[], None] = lambda: None) -> None:
        """`default_file`: where the option names no other; it may be missing. `changed` is called when other rules have
        come into force."""
        self._changed = changed
        self.rules: tuple[Rule, ...] = ()
        self._default_file = default_file
        self._file_rules: tuple[Rule, ...] | None = None
        self._host_rules: tuple[Rule, ...] = ()
        self._signature: tuple[int, ...] | None = None
        self._is_missing = True
        self._task: asyncio.Task[None] | None = None

    def configure(self, updated: set[str]) -> None:
        """Apply the options. Raises OptionsError for an invalid host."""
        if HOSTS_OPTION in updated:
            self._read_hosts(ctx.options.force_stream_hosts)
        if "force_stream_rules" in updated:
            self.read()
        elif HOSTS_OPTION in updated:
            self._put_in_force()

    def start(self) -> None:
        """Watch the file from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    @property
    def healthy(self) -> bool:
        """Whether rules are in force, and their file is watched."""
        return not self._is_missing and self._task is not None and not self._task.done()

    def read(self) -> bool:
        """Put the file's rules in force. If it has a mistake, one line says so and the previous rules stay in force; at
        startup mitmproxy exits with that line."""
        path = self._file
        self._signature = None if path is None else _signature(path)
        self._is_missing = self._signature is None and path is not None and path != self._default_file
        if path is None or not (self._signature or self._is_missing):
            self._put_in_force(())
            return True
        try:
            text = read_file(path)
        except RulesError as error:
            logger.error(f"{error}. Set force_stream_rules to a file with rules.")
            return False
        try:
            rules = parse_rules(text, path.name)
        except RulesError as error:
            logger.error(f"{error}")
            return False
        if self._file_rules is None and rules:
            logger.info(f"{counted(len(rules), 'rule')} from {path}: {', '.join(rule.name for rule in rules)}")
        self._put_in_force(rules)
        return True

    def change(self, name: str, values: Mapping[str, str]) -> list[str]:
        """Change keys of one rule, all or none, until the rules file changes. `values`: as the file would have them.
        Returns the lines that were logged; raises KeyError for an unknown rule, RulesError for a mistake."""
        found = next((known for known in self.rules if known.name == name), None)
        if found is None:
            raise KeyError(name)
        changed = found
        for key, value in values.items():
            changed = with_value(changed, key, value)
        rules = tuple(changed if known is found else known for known in self.rules)
        lines = changes(self.rules, rules)
        for line in lines:
            logger.log(ALERT, line)  # like the outcome of any command
        self.rules = rules
        self._changed()
        return lines

    @property
    def _file(self) -> Path | None:
        """The rules file; None where the option names none."""
        named = ctx.options.force_stream_rules
        if not named:
            return None
        try:
            return Path(named).expanduser()
        except RuntimeError:  # a ~user that does not exist
            return Path(named)

    def _read_hosts(self, hosts: Sequence[str]) -> None:
        """Make the option's hosts a rule."""
        try:
            self._host_rules = (Rule(HOSTS_OPTION, tuple(hosts), force_upstream_stream=True),) if hosts else ()
        except ValueError as error:
            problem = (
                f"{HOSTS_OPTION}: {error}; write a host as in llm.example.com, *.example.ai or 10.0.0.5:8000, without "
                "scheme and path"
            )
            if self._file_rules is not None:
                raise exceptions.OptionsError(problem) from error
            logger.error(problem)  # while it starts, an exception would be a traceback; mitmproxy exits with this line

    def _put_in_force(self, file_rules: tuple[Rule, ...] | None = None) -> None:
        """The file's rules (None: as they are), and after them the option's hosts."""
        first = self._file_rules is None
        if file_rules is not None:
            self._file_rules = file_rules
        rules = (*(self._file_rules or ()), *self._host_rules)
        for line in () if first else changes(self.rules, rules):
            logger.info(line)
        self.rules = rules
        self._changed()
        # Where mitmproxy only reads flows from a file, no request goes out.
        if getattr(ctx.options, "server", True) and not any(rule.watches_streams for rule in rules):
            # The default file came with the addon, and an update would overwrite what was edited in it.
            own = self._file if self._file != self._default_file else None
            where = f"set force_upstream_stream: true in a rule of {own}, or " if own else ""
            logger.warning(
                f"force-stream: no rule forces anything, so every request goes out as it came. To change that, {where}"
                f"name the upstream: --set {HOSTS_OPTION}=llm.example.com"
            )

    async def _run(self) -> None:
        before = self._signature
        while True:
            await asyncio.sleep(INTERVAL)
            # While an editor saves, the file may be missing, empty or incomplete for a moment, so it is read once it is
            # there and no longer changes.
            path = self._file
            # In a thread: the server of a network file system may not answer.
            signature = None if path is None else await asyncio.to_thread(_signature, path)
            if signature is not None and signature == before != self._signature:
                self.read()
            before = signature


def _signature(path: Path) -> tuple[int, ...] | None:
    """A value that changes when the file does; None if there is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # a path with a NUL
        return None
    # A pipe or a device changes whenever it is used.
    times = (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else ()
    return status.st_mode, status.st_ino, *times
