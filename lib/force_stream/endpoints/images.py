"""Image generations and edits: from `image_generation.*` and `image_edit.*` events to the answer of a plain request.

Knows those events; must not know bytes, HTTP or server-sent events.

OpenAI sends `completed` with each image: https://platform.openai.com/docs/api-reference/images-streaming. Volcengine
Ark and MiniMax send `partial_succeeded` or `partial_failed` for each image of a group, and `completed` with the usage
at the end: https://platform.minimax.io/docs/api-reference/image-generation-h3-streaming. In a plain answer, the entry
of an image that failed is its error.
"""

from collections.abc import Iterator
from typing import Any, Final

from ..errors import EmptyStream, IncompleteStream, UpstreamError, error_body
from ..errors.events import error_in
from ..merge.fields import CHANGED, Fields, Slots, nothing, overlay
from .endpoint import Aggregated, Aggregator, Asked, Endpoint, fewer_than
from .pieces import may_be_said_again

_FAMILIES: Final = ("image_generation.", "image_edit.")
_PADDING: Final = ("obfuscation", "sequence_number")
# The members of an event that belong to one image; all others belong to the whole answer.
_IMAGE: Final[tuple[str, ...]] = ("b64_json", "url")
_OF_AN_IMAGE: Final[tuple[str, ...]] = (*_IMAGE, "revised_prompt")
# The members of an event of a group that do not belong to its image.
_OF_A_GROUP: Final = frozenset(("type", "model", "created", "created_at", "image_index", "usage", *_PADDING))
_OF_THE_ANSWER: Final = {
    "type": nothing,
    "created_at": nothing,  # the answer calls it `created`
    **dict.fromkeys(("partial_image_index", "image_index", *_PADDING, *_OF_AN_IMAGE), nothing),
}


class ImagesAggregator(Aggregator):
    """Gathers the completed images; partial ones are previews that no plain answer has."""

    families = (*_FAMILIES, "ping", "keepalive")

    def __init__(self, expected_choices: int = 1) -> None:
        self._expected = expected_choices
        self._images: list[tuple[float, dict[str, Any]]] = []
        self._is_group = False
        self._of_group: set[str] = set()  # all that its images are known by
        self._created: Any = None
        self._rest = Fields(_OF_THE_ANSWER, overlay)

    def knows(self, chunk: dict[str, Any], event: str = "") -> bool:
        return super().knows(chunk, event) or bool(chunk.get("usage")) or any(key in chunk for key in (*_IMAGE, "data"))

    def add(self, chunk: dict[str, Any], event: str = "") -> Slots | None:
        kind = chunk.get("type") or event
        if not kind and isinstance(chunk.get("data"), list):
            self._add_answer(chunk, chunk["data"])
        if not isinstance(kind, str) or not kind.startswith(_FAMILIES):
            return CHANGED
        what = kind.partition(".")[2]
        if what in ("partial_succeeded", "partial_failed"):
            self._is_group = True
            self._add_to_group(chunk, failed=what == "partial_failed")
        elif what == "completed":
            self._complete(chunk)
        return CHANGED  # these events are few, and no two are alike

    def _add_answer(self, chunk: dict[str, Any], images: list[Any]) -> None:
        """A plain answer as an event."""
        for image in images:
            self._add_image(image if isinstance(image, dict) else {}, {})
        self._created = self._created or chunk.get("created")
        self._rest.add({key: value for key, value in chunk.items() if key not in ("data", "created")})
        self.ended = self.finished = len(self._images) >= self._expected

    def _add_to_group(self, chunk: dict[str, Any], *, failed: bool) -> None:
        entry = {key: value for key, value in chunk.items() if key not in _OF_A_GROUP}
        if failed and not entry.get("error"):
            entry = {"error": entry}
        self._add_image(entry, chunk)
        envelope = {key: value for key, value in chunk.items() if key in ("model", "created")}
        self._created = self._created or chunk.get("created_at")
        self._rest.add(envelope)

    def _complete(self, chunk: dict[str, Any]) -> None:
        image = {key: chunk[key] for key in _OF_AN_IMAGE if key in chunk}
        # The last event of a group may say an image again.
        if not self._is_group or (any(map(image.get, _IMAGE)) and self._of_group.isdisjoint(_names(image))):
            self._add_image(image, chunk)
        self._created = self._created or chunk.get("created_at")
        self._rest.add(chunk)
        self.ended = self.finished = self._is_group or len(self._images) >= self._expected

    def _add_image(self, image: dict[str, Any], chunk: dict[str, Any]) -> None:
        index = chunk.get("image_index")
        place = index if isinstance(index, int) else float("inf")
        self._images.append((place, image))
        if self._is_group:
            self._of_group.update(_names(image))

    def result(self, *, done: bool = False, partial: bool = False) -> Aggregated:
        # An upstream may make fewer than were asked for, and then sends [DONE].
        if not self._images or not (self.ended or done or partial):
            raise IncompleteStream("the upstream's event stream stopped before the last image was complete")
        created = {} if self._created is None else {"created": self._created}
        images = [image for _, image in sorted(self._images, key=lambda entry: entry[0])]
        rest = self._rest.result() or {}
        if not any(image.get(key) for image in images for key in _IMAGE):
            failed = next((image for image in images if image.get("error")), None)
            if failed is None:
                raise EmptyStream("the upstream's event stream had no image")
            # One that says nothing: `partial_failed` without an error.
            silent = error_body("the upstream made no image, and gave no reason") | {"data": images}
            raise UpstreamError(error_in(failed | {"data": images} | rest) or silent)
        odd = fewer_than(self._expected, len(images), "image") if not self._is_group else ()
        return Aggregated({**created, "data": images, **rest}, odd=odd)


def _names(image: dict[str, Any]) -> list[str]:
    return [image[key] for key in _IMAGE if image.get(key) and isinstance(image[key], str)]


# The other direction


def _events_of(document: Any, asked: Asked) -> Iterator[dict[str, Any]] | None:
    images = document.get("data") if isinstance(document, dict) else None
    if not isinstance(images, list) or not images or not all(isinstance(image, dict) for image in images):
        return None
    is_edit = asked.path.partition("?")[0].rstrip("/").endswith("/edits")
    name = "image_edit" if is_edit else "image_generation"
    rest = {key: value for key, value in document.items() if key not in ("type", "created", "data")}
    if any(key not in _OF_AN_IMAGE for image in images for key in image):
        return _of_a_group(name, images, {key: document[key] for key in ("created",) if key in document} | rest)
    created = {"created_at": document["created"]} if "created" in document else {}
    return _of_openai(name, images, created, rest)


def _of_openai(
    name: str, images: list[dict[str, Any]], created: dict[str, Any], rest: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Each event has what is said of all images; but what is long only the last."""
    each = {key: value for key, value in rest.items() if may_be_said_again(value)}
    for image in images[:-1]:
        yield {"type": f"{name}.completed", **image, **created, **each}
    yield {"type": f"{name}.completed", **images[-1], **created, **rest}


def _of_a_group(name: str, images: list[dict[str, Any]], rest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Volcengine's events, whose images have more members than OpenAI's: an error, a size each."""
    each = {key: value for key, value in rest.items() if key in ("model", "created") and may_be_said_again(value)}
    for index, image in enumerate(images):
        kind = "partial_failed" if image.get("error") else "partial_succeeded"
        yield {**image, "type": f"{name}.{kind}", **each, "image_index": index}
    yield {"type": f"{name}.completed", **rest}


IMAGES: Final = Endpoint(
    "images",
    ("/images/generations", "/images/edits"),
    ImagesAggregator,
    _events_of,
    stream_options=frozenset(),
    only_streamed=("partial_images",),
    forms=True,
    holds="data",
    named=_FAMILIES,
)
