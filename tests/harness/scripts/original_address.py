"""A mitmproxy script: transparent mode without a firewall. Its option says where every client wanted to go."""

from mitmproxy import ctx, platform
from mitmproxy.addonmanager import Loader

platform.init_transparent_mode = lambda: None


class OriginalAddress:
    def load(self, loader: Loader) -> None:
        loader.add_option("original_address", str, "", "Host and port.")

    def running(self) -> None:
        host, _, port = ctx.options.original_address.rpartition(":")
        platform.original_addr = lambda _: (host, int(port))


addons = [OriginalAddress()]
