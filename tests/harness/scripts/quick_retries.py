"""A mitmproxy script, loaded after the addon: short pauses between the tries of a request."""

from force_stream.proxy import retry_policy

retry_policy.FIRST_DELAY = 0.02
