"""Ports that are chosen before something listens at them."""

import socket
import sys


def held_port() -> tuple[int, socket.socket]:
    """A free port on 127.0.0.1, and the socket that keeps the kernel from giving it to anybody else.

    Nothing listens there. A server that sets SO_REUSEADDR may all the same, as all do here, while the port is held: so
    it is on Linux alone, and elsewhere the socket is closed already.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    if sys.platform != "linux":
        holder.close()
    return port, holder
