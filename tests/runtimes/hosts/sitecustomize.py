"""Gives each Python process that has this folder on its path a name for this machine: llm.test."""

import functools
import socket
from typing import Any

_getaddrinfo = socket.getaddrinfo


@functools.wraps(_getaddrinfo)
def getaddrinfo(host: Any, *args: Any, **more: Any) -> Any:
    return _getaddrinfo("127.0.0.1" if host in ("llm.test", b"llm.test") else host, *args, **more)


socket.getaddrinfo = getaddrinfo
