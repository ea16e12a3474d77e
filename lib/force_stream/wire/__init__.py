"""Bytes and grammars: what an event, a JSON text, a form and a content encoding are. Must not know what they mean."""
