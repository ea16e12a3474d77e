"""Which requests a rule is for: the rule and the rules file. Must not know what is done with a request."""
