"""tools/release_notes.py: what a release says, and when there is none."""

import pytest
from force_stream import __version__

from tools import release_notes

CHANGELOG = """\
# Changelog

## [Unreleased]

### Added

- Not out yet.

## [1.1.0] - 2026-12-01

### Fixed

- A thing, see [the docs](docs/thing.md).

## [1.0.0] - 2026-11-25

- The first.

[1.1.0]: https://example.com/compare
"""


@pytest.fixture
def changelog(tmp_path, monkeypatch):
    """`changelog(text)`: a CHANGELOG.md with this text in place of the project's."""
    path = tmp_path / "CHANGELOG.md"
    monkeypatch.setattr(release_notes, "CHANGELOG", path)
    return path.write_text


def test_the_notes_are_the_section_of_the_version() -> None:
    assert release_notes.notes(CHANGELOG, "1.1.0") == "### Fixed\n\n- A thing, see [the docs](docs/thing.md)."
    assert release_notes.notes(CHANGELOG, "1.0.0") == "- The first."


def test_the_tag_and_the_version_name_the_same_release(changelog, capsys) -> None:
    changelog(f"## [{__version__}] - 2026-12-01\n\n- The first.\n")
    for name in (f"v{__version__}", __version__):
        assert release_notes.main([name]) == 0
        assert capsys.readouterr().out == "- The first.\n"


def test_a_tag_that_is_not_the_packages_version_fails(changelog, capsys) -> None:
    changelog(CHANGELOG)
    assert release_notes.main(["v1.1.0"]) == 1
    assert capsys.readouterr().err == f"the tag says 1.1.0, but force_stream.__version__ is {__version__}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (CHANGELOG, "CHANGELOG.md has no section [{}] with a date"),
        ("## [{}] - Unreleased\n\n- Something.\n", "CHANGELOG.md has no section [{}] with a date"),
        ("## [{}] - 2026-12-01\n\n## [0.0.1] - 2026-11-01\n\n- Older.\n", "CHANGELOG.md says nothing about {}"),
    ],
)
def test_a_version_that_the_changelog_does_not_describe_fails(text, problem, changelog, capsys) -> None:
    changelog(text.replace("{}", __version__))
    assert release_notes.main([__version__]) == 1
    assert capsys.readouterr().err == problem.format(__version__) + "\n"
