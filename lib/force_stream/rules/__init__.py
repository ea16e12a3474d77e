"""Which requests a rule is for: the rule and the rules file. Must not know what is done with a request.

hosts      host names and ports: patterns, and one spelling for each
rule       a rule, and which request it is for
parse      YAML nodes to values
keys       the keys of a rule, a row each
file       the text of a rules file to rules
describe   rules in words
"""
