"""A mitmproxy script with a command, `short_way.events`: how many events of forced answers came which way so far.

It returns two numbers: those of the short way (proxy/shortcut.py), and those of mitmproxy's. What comes the second way
is noticed in the same turn of the event loop, so who asks gets to know it when mitmproxy awaits the next bytes.
"""

from collections.abc import Sequence

from force_stream.proxy.attempt import Attempt
from mitmproxy import command


class ShortWay:
    def __init__(self) -> None:
        self.short = self.long = 0
        self._wait, self._receive = Attempt.wait, Attempt.receive

    def running(self) -> None:
        Attempt.wait = lambda attempt, piece: self._on_wait(attempt, piece)
        Attempt.receive = lambda attempt, piece: self._on_receive(attempt, piece)

    def _on_wait(self, attempt: Attempt, piece: bytes) -> bool:
        waits = self._wait(attempt, piece)
        self.short += waits * piece.count(b"\n\n")
        return waits

    def _on_receive(self, attempt: Attempt, piece: bytes) -> bool:
        self.long += piece.count(b"\n\n")
        return self._receive(attempt, piece)

    @command.command("short_way.events")
    def events(self) -> Sequence[str]:
        return [f"{self.short}", f"{self.long}"]


addons = [ShortWay()]
