"""`force-stream install`: the addon's script in mitmproxy's config.yaml, or out of it again.

Knows that file's key `scripts`; all else in it, comments too, stays as it is.
"""

import os
import sys
import tempfile
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from .script import script


def install(confdir: str) -> int:
    """Add the script. The exit code."""
    path = _config(confdir)
    try:
        config = _read(path)
        scripts = [each for each in config.get("scripts") or [] if not _is_ours(each)]
        config["scripts"] = [*scripts, str(script())]
        _write(path, config)
    except (OSError, ValueError) as error:
        return _failed(path, error)
    print(f"{path}: mitmproxy, mitmdump and mitmweb load {script()} from now on.")
    print("Name the hosts to force, there or on the command line: --set force_stream_hosts=llm.example.com")
    return 0


def remove(confdir: str) -> int:
    """Take the script out. The exit code."""
    path = _config(confdir)
    try:
        config = _read(path) if path.exists() else {}
        scripts = config.get("scripts") or []
        kept = [each for each in scripts if not _is_ours(each)]
        if len(kept) == len(scripts):
            print(f"{path}: the addon is not in there.")
            return 0
        if kept:
            config["scripts"] = kept
        else:
            del config["scripts"]
        _write(path, config)
    except (OSError, ValueError) as error:
        return _failed(path, error)
    print(f"{path}: mitmproxy no longer loads the addon.")
    return 0


def _config(confdir: str) -> Path:
    folder = Path(confdir).expanduser()
    # mitmproxy reads both.
    other = folder / "config.yml"
    return other if other.exists() and not (folder / "config.yaml").exists() else folder / "config.yaml"


def _is_ours(entry: object) -> bool:
    """Whether an entry is the addon, also that of a package that was installed elsewhere before."""
    return entry == str(script()) or Path(str(entry)).parts[-3:] == ("force_stream", "script", "addon.py")


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # long values are not folded
    return yaml


def _read(path: Path) -> Any:
    try:
        config = _yaml().load(path.read_text(encoding="utf-8")) if path.exists() else None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError("it is not YAML; fix it first") from error
    if config is None:
        config = {}
    if not isinstance(config, dict) or not isinstance(config.get("scripts") or [], list):
        raise ValueError("it is not a file of mitmproxy's options")
    return config


def _write(path: Path, config: Any) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = StringIO()
    if config:
        _yaml().dump(config, text)
    # Whole or not at all: mitmproxy does not start with half a file. What a link leads to is replaced, not the link.
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
    with tempfile.NamedTemporaryFile("w", dir=target.parent, encoding="utf-8", delete=False) as new:
        new.write(text.getvalue())
    try:
        os.chmod(new.name, mode)
        os.replace(new.name, target)
    except OSError:
        os.unlink(new.name)
        raise


def _failed(path: Path, error: Exception) -> int:
    reason = error.strerror if isinstance(error, OSError) else error
    print(f"{path}: nothing was changed: {reason}", file=sys.stderr)
    return 1
