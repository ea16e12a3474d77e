"""One flow in mitmproxy: its request, its answer while it comes in, and what is kept and said of it."""
