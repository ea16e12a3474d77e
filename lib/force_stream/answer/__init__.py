"""An answer's bytes to a reply. Must not know rules or mitmproxy."""
