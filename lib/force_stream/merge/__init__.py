"""Many deltas, one value. Must not know any endpoint."""
