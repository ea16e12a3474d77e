"""Image generations and edits: from `image_generation.*` and `image_edit.*` events to the answer of a plain request.

Knows those events; must not know bytes, HTTP or server-sent events.
https://platform.openai.com/docs/api-reference/images-streaming
"""

from typing import Any, Final

from ..errors import IncompleteStream
from ..merge.fields import CHANGED, Fields, Slots, nothing, overlay
from .endpoint import Aggregated, Aggregator, Endpoint

_COMPLETED: Final = frozenset(("image_generation.completed", "image_edit.completed"))
# The members of an event that belong to one image; all others belong to the whole answer.
_OF_AN_IMAGE: Final = ("b64_json", "url", "revised_prompt")
_OF_THE_ANSWER: Final = {
    "type": nothing,
    "created_at": nothing,  # the answer calls it `created`
    **dict.fromkeys(("partial_image_index", "sequence_number", "obfuscation", *_OF_AN_IMAGE), nothing),
}


class ImagesAggregator(Aggregator):
    """Gathers the completed images; partial ones are previews that no plain answer has."""

    def __init__(self, expected_choices: int = 1) -> None:
        self._expected = expected_choices
        self._images: list[dict[str, Any]] = []
        self._created: Any = None
        self._rest = Fields(_OF_THE_ANSWER, overlay)

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        kind = chunk.get("type") or event
        if isinstance(kind, str) and kind in _COMPLETED:
            self._images.append({key: chunk[key] for key in _OF_AN_IMAGE if key in chunk})
            self._created = self._created or chunk.get("created_at")
            self._rest.add(chunk)
            self.ended = self.finished = len(self._images) >= self._expected
        return CHANGED  # these events are few, and no two are alike

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        # An upstream may make fewer than were asked for, and then sends [DONE].
        if not self._images or not (self.ended or done or partial):
            raise IncompleteStream("the upstream's event stream stopped before the last image was complete")
        created = {} if self._created is None else {"created": self._created}
        return Aggregated({**created, "data": self._images, **self._rest.result()})


IMAGES: Final = Endpoint(
    "images", ("/images/generations", "/images/edits"), ImagesAggregator, stream_options=frozenset(), forms=True
)
