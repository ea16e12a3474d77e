"""What the page shows of the addon."""

import dataclasses

from force_stream.page.shown import rules_of
from force_stream.wire import jsontext
from harness.page import RULE, Shelf


def test_a_rule_is_plain_values_and_how_many_flows_it_has_taken() -> None:
    (rule,) = rules_of(Shelf(rule=dataclasses.replace(RULE, stream_options={"include_usage": True})))
    assert (rule["name"], rule["hosts"], rule["flows"]) == ("private-vllm", ("llm.example.com",), 3)
    assert jsontext.loads(jsontext.dumps(rule).decode())["stream_options"] == {"include_usage": True}
