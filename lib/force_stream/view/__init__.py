"""What a person sees of an answer. Must not know how a request is forced."""
