"""A mitmproxy script, loaded behind the addon: short pauses between the tries of a request."""

from force_stream import retry

retry.FIRST_DELAY = 0.02
