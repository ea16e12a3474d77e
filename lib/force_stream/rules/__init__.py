"""Which request is whose: the rule and the rules file. Must not know what becomes of a request."""
