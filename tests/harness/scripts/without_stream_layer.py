"""A mitmproxy script, loaded after the addon: as on a mitmproxy whose stream layer the addon does not know."""

from force_stream.proxy import stream_layer

stream_layer.check = lambda: "switched off by a test"
