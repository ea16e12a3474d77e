"""What was learned of upstreams: for whom it holds, how long, and how much of it there is."""

import pytest
from force_stream.proxy.learned import MOST, Asked, Learned, hash_of

ASKED = Asked("192.0.2.1", 443, "llm.test", "m", "chat")
OTHERS = [ASKED._replace(**{key: value}) for key, value in [("host", "x"), ("port", 1), ("name", "x"), ("model", None)]]
KEY, OTHER_KEY = hash_of(["a"]), hash_of(["b"])


@pytest.mark.parametrize("other", [*OTHERS, ASKED._replace(endpoint="completions")])
def test_it_holds_for_the_same_upstream_model_and_endpoint(other: Asked) -> None:
    learned = Learned()
    learned.add_streams(ASKED)
    learned.add_without_options(ASKED)
    learned.add_plain(ASKED, KEY, ())
    assert (learned.must_stream(ASKED), learned.must_stream(other)) == (True, False)
    assert (learned.rejects_options(ASKED), learned.rejects_options(other)) == (True, False)
    assert learned.why_plain(ASKED, KEY, {}) == "the upstream said that it cannot stream any request"
    assert learned.why_plain(other, KEY, {}) == ""


def test_what_cannot_stream_holds_for_the_same_credentials() -> None:
    learned = Learned()
    learned.add_plain(ASKED, KEY, ())
    assert learned.why_plain(ASKED, OTHER_KEY, {}) == ""
    learned.drop_plain(ASKED, KEY)
    assert learned.why_plain(ASKED, KEY, {}) == ""


def test_what_cannot_stream_holds_for_requests_with_all_that_was_named() -> None:
    learned = Learned()
    learned.add_plain(ASKED, KEY, ("logprobs", "tools"))
    learned.add_plain(ASKED, KEY, ("n",))
    assert learned.why_plain(ASKED, KEY, {"logprobs": True, "tools": [1], "user": "x"}).endswith(
        "cannot stream a request with logprobs and tools"
    )
    assert learned.why_plain(ASKED, KEY, {"n": 2})
    for members in ({"logprobs": True}, {"logprobs": False, "tools": [1]}, {"tools": [], "logprobs": True}, {}):
        assert learned.why_plain(ASKED, KEY, members) == ""


def test_it_is_forgotten_when_the_rules_change() -> None:
    learned = Learned()
    rules = [1, 2]
    learned.for_rules(rules).add_streams(ASKED)
    assert learned.for_rules(rules.copy()).must_stream(ASKED), "the same rules, read again"
    assert not learned.for_rules([1]).must_stream(ASKED)


def test_there_is_no_more_of_it_than_fits() -> None:
    learned = Learned()
    for number in range(MOST + 10):
        asked = ASKED._replace(model=f"{number}")
        learned.add_streams(asked)
        learned.add_without_options(asked)
        learned.add_plain(asked, KEY, ())
        learned.add_plain(ASKED, KEY, (f"{number}",))
    assert len(learned.lines()) <= 3 * MOST + 20
    assert not learned.must_stream(ASKED._replace(model="0"))
    assert learned.must_stream(ASKED._replace(model=f"{MOST + 9}"))


def test_it_is_listed_without_credentials() -> None:
    learned = Learned()
    learned.add_streams(ASKED)
    learned.add_without_options(ASKED._replace(model=None))
    for key in (KEY, OTHER_KEY):
        learned.add_plain(ASKED, key, ("logprobs", "tools"))
    assert learned.lines() == [
        "learned: llm.test m (chat) must stream",
        "learned: llm.test m (chat) cannot stream a request with logprobs and tools; sent plain",
        "learned: llm.test (chat) rejects stream_options; sent without",
    ]


def test_credentials_are_kept_as_a_hash() -> None:
    assert hash_of(["secret"]) == hash_of(["secret"])
    assert hash_of(["secret"]) != hash_of(["secrets"])
    assert hash_of(["a", "b"]) != hash_of(["ab"])
    assert b"secret" not in hash_of(["secret"])
