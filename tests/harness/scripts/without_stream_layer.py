"""A mitmproxy script, loaded before the addon: as on a mitmproxy whose stream layer the addon does not know."""

from mitmproxy.proxy.layers.http import _hooks

# The name is gone for the addon; mitmproxy itself has imported it already.
del _hooks.HttpResponseHook
