"""Show the main job on this machine: a request that a stream-only upstream refuses, and the same through the addon.

Starts an upstream of its own and a real mitmdump, both on free ports of 127.0.0.1, and stops both whatever happens.
Exit code 0 only if the one request failed and the other succeeded as they should. Needs the environment that
`make demo` sets up, or another mitmdump and script by `--mitmdump` and `--script`.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from types import FrameType
from typing import Any, Final, NoReturn, Self

ROOT: Final = Path(__file__).resolve().parent.parent
HOST: Final = "127.0.0.1"
WIDTH: Final = min(104, max(60, shutil.get_terminal_size((105, 40)).columns - 1))
# Seconds. A first start compiles all of mitmproxy, which takes long on a small machine.
START_TIMEOUT: Final = 120.0
ANSWER_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 10.0
WAIT: Final = 0.2

PATH: Final = "/v1/chat/completions"
MODEL: Final = "force-stream-demo"
RULES: Final = """\
rules:
  - name: demo
    hosts: ["127.0.0.1"]
    force_upstream_stream: true
"""
REQUEST: Final = {"model": MODEL, "messages": [{"role": "user", "content": "How do you talk?"}]}
ANSWER: Final = "Word by word, but you get it all in one."
WORDS: Final = re.findall(r"\s*\S+", ANSWER)
SECONDS_A_WORD: Final = 0.04
# DashScope's words, grammar and all (infiniflow/ragflow#5912, HKUDS/LightRAG#1523).
REFUSAL: Final = "This model only support stream mode, please enable the stream parameter to access the model."


class DemoError(Exception):
    """Why there is nothing to show, in words for the person who started the demo."""


# The upstream


class Upstream(ThreadingTCPServer):
    """Answers chat completions, but only as a stream. `requests`: the bodies it got; `events`: how many it sent."""

    # http.server's own server looks up the name of its address, which takes seconds where nothing answers that.
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__((HOST, 0), UpstreamHandler)
        self.requests: list[str] = []
        self.events = 0
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class UpstreamHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.requests.append(body.decode())
        request = json.loads(body)
        if request.get("stream") is True:
            self._stream(request)
        else:
            self._refuse()

    def _refuse(self) -> None:
        error = {"message": REFUSAL, "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, request: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._choice({"role": "assistant", "content": ""})
        for word in WORDS:
            time.sleep(SECONDS_A_WORD)
            self._choice({"content": word})
        self._choice({}, finish_reason="stop")
        if (request.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 4, "completion_tokens": len(WORDS), "total_tokens": 4 + len(WORDS)}
            self._event(json.dumps(_envelope([]) | {"usage": usage}))
        self._write("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _choice(self, delta: dict[str, str], finish_reason: str | None = None) -> None:
        self._event(json.dumps(_envelope([{"index": 0, "delta": delta, "finish_reason": finish_reason}])))

    def _event(self, data: str) -> None:
        self.server.events += 1
        self._write(data)

    def _write(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))

    def log_message(self, *_: object) -> None:
        """Nothing: the demo tells itself what happens."""


def _envelope(choices: list[Any]) -> dict[str, Any]:
    known = {"id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": 1700000000, "model": MODEL}
    return known | {"choices": choices}


# The proxy


class Mitmdump:
    """A real mitmdump with the addon, in reverse mode. It reads no rules and no settings but the demo's own, and writes
    nothing outside a folder of its own, not even its certificate authority."""

    def __init__(self, program: str | None, script: Path, upstream_port: int) -> None:
        program = program or shutil.which("mitmdump", path=str(Path(sys.executable).parent))
        if program is None:
            raise DemoError(
                f"mitmdump is not installed beside {sys.executable}. `make clean demo` makes that environment anew."
            )
        self._folder = tempfile.TemporaryDirectory(prefix="force-stream-demo-", ignore_cleanup_errors=True)
        rules = Path(self._folder.name, "rules.yaml")
        rules.write_text(RULES, encoding="utf-8")
        self._command = [program, "-s", str(script), "--listen-host", HOST, "--listen-port", "0"]
        self._command += ["--set", f"force_stream_rules={rules}"]
        self._command += ["--mode", f"reverse:http://{HOST}:{upstream_port}"]
        self._command += ["--set", "connection_strategy=lazy", "--set", "flow_detail=0"]
        self._command += ["--set", f"confdir={self._folder.name}"]
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._ended = False

    def __enter__(self) -> Self:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            )
        except OSError as error:
            self._folder.cleanup()
            raise DemoError(
                f"{self._command[0]} cannot be started: {error.strerror}. If the checkout was moved: make clean demo"
            ) from error
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, _: object, problem: BaseException | None, __: object) -> None:
        self._stop()
        if isinstance(problem, DemoError):
            problem.add_note(f"What mitmdump said:\n{textwrap.indent(self.log or '(nothing)', '  ')}")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_TIMEOUT)
        self._folder.cleanup()

    @property
    def log(self) -> str:
        with self._changed:
            return "\n".join(self._lines)

    def wait_for_port(self) -> int:
        """The port that it listens on, once it does."""
        return int(self._wait_for(r"listening at .*:(\d+)\.", START_TIMEOUT, "mitmdump did not start")[1])

    def wait_for_log(self, start: str) -> str:
        """The log line that starts so (behind its time)."""
        return self._wait_for(rf"(?:\] |^)({re.escape(start)}.*)", ANSWER_TIMEOUT, "mitmdump's log line is missing")[1]

    def _wait_for(self, pattern: str, timeout: float, problem: str) -> re.Match[str]:
        def search() -> re.Match[str] | None:
            return next(filter(None, (re.search(pattern, line) for line in self._lines)), None)

        end = time.monotonic() + timeout
        with self._changed:
            while not (found := search()) and not self._ended and time.monotonic() < end:
                # Not in one wait: a signal that comes just before it would be heeded only after it.
                self._changed.wait(WAIT)
            ended = self._ended
        if found is None:
            how = f"it ended with exit code {self._process.wait()}" if ended else f"after {timeout:.0f} s"
            raise DemoError(f"{problem}: {how}.")
        return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                with self._changed:
                    self._lines.append(line.rstrip())
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


# The application


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    reason: str
    content_type: str
    text: str
    document: Any = field(repr=False)


def ask(port: int) -> Answer:
    """What any application does: one request, one answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_TIMEOUT)
    try:
        connection.request("POST", PATH, json.dumps(REQUEST), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
        content_type = response.getheader("content-type", "none")
        return Answer(response.status, response.reason, content_type, text, json.loads(text))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DemoError(f"the request to {HOST}:{port} got no readable answer: {error!r}") from error
    finally:
        connection.close()


def check_refused(answer: Answer) -> None:
    """That the direct request failed as it should."""
    if answer.status != 400 or answer.document["error"]["message"] != REFUSAL:
        raise DemoError(f"the direct request should have failed, and got {answer.status}: {answer.text}")


def check_answered(answer: Answer, upstream: Upstream) -> None:
    """That the request through the proxy succeeded, and by way of a stream."""
    if answer.status == 400:
        raise DemoError("the proxy left the request as it was.")
    if answer.status != 200 or answer.content_type != "application/json":
        raise DemoError(f"the request through the proxy got {answer.status} {answer.content_type}: {answer.text}")
    choice = answer.document["choices"][0]
    if choice["message"]["content"] != ANSWER or choice["finish_reason"] != "stop":
        raise DemoError(f"the answer through the proxy is not what the upstream said: {answer.text}")
    if [json.loads(body).get("stream") for body in upstream.requests] != [None, True]:
        raise DemoError(f"the upstream should have got a plain request and a forced one: {upstream.requests}")


# What is shown


class Paint:
    """Colours for a terminal; none where the output is no terminal or NO_COLOR is set (no-color.org)."""

    def __init__(self) -> None:
        self._on = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def bold(self, text: str) -> str:
        return self._painted("1", text)

    def bad(self, text: str) -> str:
        return self._painted("31", text)

    def good(self, text: str) -> str:
        return self._painted("32", text)

    def _painted(self, code: str, text: str) -> str:
        return "\n".join(f"\033[{code}m{line}\033[0m" for line in text.split("\n")) if self._on else text


def pretty(value: Any, indent: str = "  ", before: int = 0) -> str:
    """JSON in which whatever fits stands on one line; `before`: characters on that line already."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + before + len(line) <= WIDTH or not isinstance(value, dict | list):
        return line
    if isinstance(value, list) and len(value) == 1:
        return f"[{pretty(value[0], indent, before + 2)}]"
    inner = indent + "  "
    if isinstance(value, list):
        items, brackets = [pretty(item, inner) for item in value], "[]"
    else:
        keys = [f"{json.dumps(key)}: " for key in value]
        items = [key + pretty(item, inner, len(key)) for key, item in zip(keys, value.values(), strict=True)]
        brackets = "{}"
    return brackets[0] + ",".join(f"\n{inner}{item}" for item in items) + f"\n{indent}{brackets[1]}"


def show(text: str) -> None:
    """A paragraph, folded and set in."""
    print(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))


def demo(program: str | None, script: Path) -> None:
    paint = Paint()
    with Upstream() as upstream, Mitmdump(program, script, upstream.port) as mitmdump:
        print(paint.bold("An upstream that only streams, an application that does not, and force-stream in between.\n"))
        print(f'The application asks for a plain answer: POST {PATH}, no "stream" in it.')
        show(json.dumps(REQUEST))

        direct = ask(upstream.port)
        check_refused(direct)
        print(f"\n{paint.bold('1. Straight to the upstream: it fails.')} (http://{HOST}:{upstream.port})")
        print(f"  {paint.bad(f'{direct.status} {direct.reason}')}, {direct.content_type}")
        show(direct.text)

        port = mitmdump.wait_for_port()
        proxied = ask(port)
        check_answered(proxied, upstream)
        print(f"\n{paint.bold('2. Through mitmdump with the addon: it works.')} (http://{HOST}:{port})")
        print(f"  The addon asked the upstream for a stream, and made one document of {upstream.events} events:")
        show(upstream.requests[-1])
        print(f"  {paint.good(f'{proxied.status} {proxied.reason}')}, {proxied.content_type}")
        print(f"  {pretty(proxied.document)}")

        print("\nWhat mitmdump logged about it:")
        show(mitmdump.wait_for_log("demo: chat"))
    print(f"\n{paint.bold('Next:')} put the proxy in front of your own upstream:")
    print("  make run UPSTREAM=https://llm.example.com")
    print("Your application's base URL is then http://127.0.0.1:8080/v1. README.md has the other ways.")


def main() -> int:
    parser = argparse.ArgumentParser(description="Show a request that fails, and the same through the addon.")
    parser.add_argument("--mitmdump", metavar="PROGRAM", help="another mitmdump than the one beside this Python")
    parser.add_argument("--script", type=Path, default=ROOT / "addon.py", help="another script than addon.py")
    options = parser.parse_args()
    for name in ("SIGTERM", "SIGHUP"):
        # What was ignored from the start is to be, as nohup wants it; so Python itself does with SIGINT.
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), _leave)
    try:
        demo(options.mitmdump, options.script.resolve())
    except DemoError as problem:
        sys.stdout.flush()
        print("\n".join([f"The demo failed: {problem}", *getattr(problem, "__notes__", ())]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        sys.stdout.flush()
        print("The demo was stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone, as `| head` does; Python would stumble over it once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _leave(signum: int, _: FrameType | None) -> NoReturn:
    # As an exception, so that what was started is stopped on the way out.
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
