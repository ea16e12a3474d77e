"""Whether and when to try again.

Knows statuses, the `Retry-After` header and patience; must not know mitmproxy or what an answer holds.
"""

import random
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

# What another try may fix, according to RFC 9110 and to what OpenAI's own clients retry: a timeout, a conflict, a rate
# limit, and server errors.
RETRIED: Final = frozenset((408, 409, 429))
# Statuses of a temporary state, which say nothing about streaming. 500 is not one: servers use it for what they never
# do (llama.cpp: "Cannot use tools with stream").
TEMPORARY: Final = frozenset((408, 409, 425, 429, 503, 504, 529))
# Seconds.
FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 8.0
# Seconds. A longer Retry-After is not waited for: the application decides.
LONGEST_RETRY_AFTER: Final = 60.0
# Characters of a wait in milliseconds.
_LONGEST_WAIT: Final = 13


def is_retried(status: int) -> bool:
    """Whether a request that got this status may succeed another time."""
    return status in RETRIED or 500 <= status < 600


def wait_asked(header: Callable[[str], str | None]) -> str:
    """What an upstream's headers say of when to try again, as `Retry-After` does; "" if nothing. `retry-after-ms` is
    the more exact one, which OpenAI's own clients prefer (openai-python 3.57, _base_client.py)."""
    exact = (header("retry-after-ms") or "").strip()
    if exact.isascii() and exact.replace(".", "", 1).isdigit() and len(exact) < _LONGEST_WAIT:
        return f"{float(exact) / 1000:.15g}"
    return header("retry-after") or ""


def delay(tries: int, retry_after: str | None) -> float | None:
    """Seconds to wait after `tries` tries have failed; None if the upstream asks for a longer wait than is allowed."""
    asked = _seconds(retry_after)
    if asked is not None:
        return asked if asked <= LONGEST_RETRY_AFTER else None
    # Full jitter over the upper half: many clients that failed together do not come back together.
    longest = min(FIRST_DELAY * 2.0 ** (tries - 1), LONGEST_DELAY)
    return float(random.uniform(longest / 2, longest))


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds (RFC 9110, section 10.2.3: a number of them, or a date); None if it says neither."""
    text = (retry_after or "").strip()
    try:
        if text.replace(".", "", 1).isdigit():
            return float(text)
        date = parsedate_to_datetime(text)
        # One without a zone is in GMT like the others (RFC 9110, section 5.6.7), not in this machine's.
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
