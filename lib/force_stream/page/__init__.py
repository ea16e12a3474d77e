"""The page that the proxy serves about itself."""
