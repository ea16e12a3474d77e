"""`force-stream install`: put the addon's script into mitmproxy's config.yaml, or undo that.

Knows that file's key `scripts`; everything else in it, comments included, stays as it is.
"""

import argparse
import json
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..wire.text import reason
from .exits import Failed
from .path import script


def run(options: argparse.Namespace) -> int:
    path = _config(Path(options.confdir).expanduser())
    try:
        text = path.read_bytes().decode() if path.exists() else ""
        without = _without(text)
        if options.remove and without == text:
            print(f"{path}: it does not load the addon.")
            return 0
        _write(path, without if options.remove else _with(without))
    except (OSError, ValueError) as error:
        raise Failed(f"{path}: nothing was changed: {reason(error)}") from error
    if options.remove:
        print(f"{path}: mitmproxy no longer loads the addon.")
    else:
        print(f"{path}: mitmproxy, mitmdump and mitmweb load {script()} from now on.")
        print("Name the hosts to force, there or on the command line: --set force_stream_hosts=llm.example.com")
    return 0


def _config(folder: Path) -> Path:
    # mitmproxy reads both.
    other = folder / "config.yml"
    return other if other.exists() and not (folder / "config.yaml").exists() else folder / "config.yaml"


def _is_ours(entry: object) -> bool:
    """Whether an entry is the addon, perhaps that of a package that was installed elsewhere before."""
    return entry == str(script()) or Path(str(entry)).parts[-3:] == ("force_stream", "script", "addon.py")


def _options(text: str) -> dict[str, Any]:
    """The options in a configuration. ValueError if it is not one."""
    try:
        config = YAML().load(text)
    except YAMLError as error:
        raise ValueError("it is not YAML; fix it first") from error
    if not isinstance(config, dict | None) or not isinstance((config or {}).get("scripts"), list | None):
        raise ValueError("it is not a file of mitmproxy's options")
    return config or {}


def _with(text: str) -> str:
    """The text with our entry after those that are there."""
    entry = f"- {json.dumps(str(script()), ensure_ascii=False)}\n"
    options = _options(text)
    scripts = options.get("scripts")
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if scripts:
        last, _ = scripts.lc.item(len(scripts) - 1)
        indent, _, _ = lines[last].partition("-")
        lines.insert(last + 1, indent + entry)
    else:
        heading = next((number for number, line in enumerate(lines) if re.match("scripts *:", line)), None)
        if heading is None:
            lines.append("scripts:\n")
            heading = len(lines) - 1
        lines[heading] = re.sub(r"^(scripts *:) *(\[ *\]|null|~)?", r"\1", lines[heading])
        lines.insert(heading + 1, entry)
    return _checked("".join(lines), options | {"scripts": [*(scripts or ()), str(script())]}, "add")


def _without(text: str) -> str:
    """The text without our entries, and without a list that would be empty then."""
    options = _options(text)
    scripts: Any = options.pop("scripts", None) or []
    ours = [number for number, entry in enumerate(scripts) if _is_ours(entry)]
    if not ours:
        return text
    lines = text.splitlines(keepends=True)
    for number in reversed(ours):
        del lines[scripts.lc.item(number)[0]]
    text = "".join(lines)
    if len(ours) == len(scripts):
        return _checked(re.sub(r"^scripts *: *\n", "", text, flags=re.MULTILINE), options, "remove")
    return _checked(text, options | {"scripts": [entry for entry in scripts if not _is_ours(entry)]}, "remove")


def _checked(text: str, meant: dict[str, Any], what: str) -> str:
    """The text, if it means that: the same options may be written in other ways than a line an entry."""
    with suppress(ValueError):
        if _options(text) == meant:
            return text
    raise ValueError(f"{what} {script()} by hand: the list of scripts is not written with a line for each")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # All or nothing: mitmproxy does not start with half a file. What a link leads to is replaced, not the link.
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    with tempfile.NamedTemporaryFile(dir=target.parent, delete_on_close=False) as new:
        new.write(text.encode())
        new.close()
        os.chmod(new.name, mode)
        os.replace(new.name, target)
