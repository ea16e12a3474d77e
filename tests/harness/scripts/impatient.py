"""A mitmproxy script, loaded after the addon: silence is told of after a moment."""

from force_stream.addon import hooks, in_flight

in_flight.SILENT = 0.5
hooks.LOOK_EVERY = 0.1
