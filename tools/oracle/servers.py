"""The servers: how each is started, what it is asked, and what the rule for it says. Must not know the comparison.

A server ends with its standard input, so that nothing stays behind, however the program that started it ends.
"""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import known
import questions
from processes import process, wait_until_ready

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
ENVIRONMENT: Final = Path(sys.prefix)

# Runs what follows it in a process that ends with its standard input.
WITH_INPUT: Final = """\
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
"""
MITMDUMP: Final = WITH_INPUT + "from mitmproxy.tools.main import mitmdump; mitmdump()"
LITELLM: Final = WITH_INPUT + "from litellm import run_server; run_server()"

LITELLM_CONFIG: Final = """\
model_list:
  - model_name: gemma
    litellm_params: {{model: openai/gemma, api_base: "{address}/v1", api_key: none}}
litellm_settings: {{telemetry: false, num_retries: 0, request_timeout: 600}}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A row. `both_ways`: its own streams show whether our events of its plain answers are those of a real server.
    `package` and `python`: what it was installed as, and the Python of its environment; `started`: runs it
    in a folder for its logs and gives its address; `quirks` and `fill`, by endpoint: what its rule says."""

    name: str
    package: str
    python: Path
    started: Callable[[Path], AbstractContextManager[str]]
    requests: list[questions.OracleRequest]
    known: tuple[known.Known, ...]
    quirks: tuple[str, ...] = ()
    both_ways: bool = False
    fill: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def rules(self) -> str:
        """Its rules file: a rule for each endpoint. YAML reads JSON."""
        rule = {"hosts": ["127.0.0.1"], "force_upstream_stream": True, "quirks": self.quirks}
        rules = [
            rule | {"name": endpoint, "endpoints": [endpoint], "fill": dict(self.fill.get(endpoint, {}))}
            for endpoint in questions.ENDPOINTS
        ]
        return json.dumps({"rules": rules})

    @property
    def version(self) -> str:
        """Of the installed package; "" where there is none."""
        code = f"from importlib.metadata import version; print(version({self.package!r}))"
        if not self.python.exists():
            return ""
        asked = subprocess.run([self.python, "-c", code], capture_output=True, encoding="utf-8", check=False)
        return asked.stdout.strip()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def python_of(environment: str) -> Path:
    """The Python of an environment inside that of this program."""
    return ENVIRONMENT / environment / "bin" / "python"


@contextlib.contextmanager
def llama_cpp(folder: Path) -> Iterator[str]:
    command = [sys.executable, str(HERE / "llama_cpp.py")]
    with process(command, folder / "llama_cpp.log", r"listening (http://\S+) ") as address:
        wait_until_ready(address)
        yield address


@contextlib.contextmanager
def litellm(folder: Path) -> Iterator[str]:
    """The LiteLLM proxy, in front of llama.cpp."""
    with llama_cpp(folder) as behind:
        config = folder / "litellm.yaml"
        config.write_text(LITELLM_CONFIG.format(address=behind), encoding="utf-8")
        command = [str(python_of("litellm")), "-c", LITELLM, "--config", str(config)]
        command += ["--host", "127.0.0.1", "--port", str(free_port())]
        # Neither a look-up of prices on the network nor reports to anybody; and no key, since only this machine asks.
        with process(
            command,
            folder / "litellm.log",
            r"Uvicorn running on (http://\S+)",
            LITELLM_LOCAL_MODEL_COST_MAP="True",
            LITELLM_TELEMETRY="False",
            LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY="true",
        ) as address:
            wait_until_ready(address, "/health/liveliness")
            yield address


# Not its command, which asks for the version of a package "vllm": the one for CPUs has another name.
VLLM: Final = WITH_INPUT + (
    "import runpy; runpy.run_module('vllm.entrypoints.openai.api_server', run_name='__main__', alter_sys=True)"
)
TRANSFORMERS: Final = WITH_INPUT + "from transformers.cli.transformers import main; main()"
TINY: Final = ENVIRONMENT / "tiny"


def tiny_model() -> Path:
    """The folder of the tiny model, which is trained where that has not been done before."""
    if not (TINY / "config.json").exists():
        print("Training the tiny model …", flush=True)
        subprocess.run([python_of("torch"), HERE / "tiny_model.py", TINY], check=True)
    return TINY


@contextlib.contextmanager
def vllm(folder: Path) -> Iterator[str]:
    port = free_port()
    command = [str(python_of("torch")), "-c", VLLM, "--model", str(tiny_model())]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-num-seqs", "4", "--no-enable-prefix-caching"]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"]
    with process(
        command,
        folder / "vllm.log",
        r"(Application startup complete)",
        VLLM_CPU_KVCACHE_SPACE="1",  # GiB
        VLLM_NO_USAGE_STATS="1",
        HF_HUB_OFFLINE="1",
    ):
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address)
        yield address


@contextlib.contextmanager
def transformers(folder: Path) -> Iterator[str]:
    port = free_port()
    model = tiny_model()
    # A request names the model as the server was given it.
    command = [str(python_of("torch").absolute()), "-c", TRANSFORMERS, "serve", model.name, "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "info"]
    started = r"(Application startup complete)"
    log = folder.absolute() / "transformers.log"
    # One thread: two that wait for each other come to a crawl as soon as anything else runs on a two-core machine.
    with process(command, log, started, inside=model.parent, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1"):
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address)
        yield address


# What LiteLLM's models of an answer add to a plain one, whatever the server behind it says.
LITELLM_FILL: Final[Mapping[str, Mapping[str, object]]] = {
    "chat": {"choices.*.provider_specific_fields": {}},
    "completions": {
        "choices.*.logprobs": None,
        **{
            f"usage.prompt_tokens_details.{name}_tokens": None
            for name in ("audio", "image", "text", "video", "initial_prompt")
        },
    },
    "responses": {
        **dict.fromkeys(
            (
                *("error", "incomplete_details", "instructions", "metadata", "parallel_tool_calls", "temperature"),
                *("tool_choice", "tools", "top_p", "max_output_tokens", "previous_response_id", "reasoning", "text"),
                *("truncation", "user", "store"),
            )
        ),
        "usage.cost": None,
        "usage.output_tokens_details": None,
        "usage.input_tokens_details.cached_tokens_details": None,
        **{f"usage.input_tokens_details.{name}_tokens": None for name in ("audio", "image", "text", "video")},
    },
    "messages": {"stop_details": None},
}

# What vLLM's models of an answer add to a plain one.
VLLM_ALWAYS: Final = dict.fromkeys(("ec_transfer_params", "kv_transfer_params", "metrics", "service_tier"))
VLLM_FILL: Final[Mapping[str, Mapping[str, object]]] = {
    "chat": {
        **VLLM_ALWAYS,
        **dict.fromkeys(
            f"choices.*.message.{name}" for name in ("annotations", "audio", "function_call", "reasoning", "refusal")
        ),
        "choices.*.routed_experts": None,
        "prompt_logprobs": None,
        "usage.prompt_tokens_details": None,
    },
    "completions": {
        **VLLM_ALWAYS,
        "choices.*.prompt_logprobs": None,
        "choices.*.routed_experts": None,
        "usage.completion_tokens_details": None,
        "usage.prompt_tokens_details": None,
    },
}

SERVERS: Final = (
    Server(
        "llama.cpp",
        "xllamacpp",
        Path(sys.executable),
        llama_cpp,
        questions.REQUESTS,
        known.LLAMA_CPP,
        ("content_never_null", "usage_per_choice"),
        both_ways=True,
    ),
    Server(
        "LiteLLM",
        "litellm",
        python_of("litellm"),
        litellm,
        questions.LITELLM_REQUESTS,
        known.LITELLM,
        ("content_never_null",),
        fill=LITELLM_FILL,
    ),
    Server(
        "vLLM",
        "vllm-cpu",
        python_of("torch"),
        vllm,
        questions.TINY_REQUESTS,
        known.VLLM,
        ("empty_content_is_null",),
        fill=VLLM_FILL,
    ),
    Server(
        "transformers serve",
        "transformers",
        python_of("torch"),
        transformers,
        questions.TINY_REQUESTS,
        known.TRANSFORMERS,
        ("content_never_null",),
    ),
)
