"""Train a tiny Qwen3 on lessons.py until it knows them by heart, and save it with its tokenizer: a model in a minute,
on a CPU and without a download, that real servers load and that really calls tools.

    python tools/oracle/tiny_model.py FOLDER        needs torch and transformers
"""

import sys
import time
from pathlib import Path
from typing import Any, Final

import torch  # type: ignore[import-not-found, unused-ignore]
from lessons import LESSONS, TEXTS, Lesson
from tokenizers import (  # type: ignore[import-not-found, unused-ignore]
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from transformers import (  # type: ignore[import-not-found, unused-ignore]
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

END_OF_TEXT: Final = "<|endoftext|>"
SPECIAL: Final = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
# Servers look for these in the text, so decoding must not leave them out.
MARKS: Final = ("<think>", "</think>", "<tool_call>", "</tool_call>")
CONTEXT: Final = 1024
MOST_STEPS: Final = 400
KNOWN_BY_HEART: Final = 0.004  # the loss at which greedy decoding repeats every lesson

# Of the tools only the names, since each API and each server spells the rest of them in its own way.
CHAT_TEMPLATE: Final = """\
{%- if tools -%}
<|im_start|>system
Tools:{% for tool in tools %} {{ tool.function.name if tool.function else tool.name }}{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>{{ call.function.name }}</tool_call>
{%- endfor %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false -%}
<think>

</think>

{% endif %}
{%- endif -%}
"""


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def taught(lesson: Lesson, tokenizer: Any, *, thinking: bool) -> tuple[str, str]:
    """The prompt, and what has to follow it."""
    prompt = tokenizer.apply_chat_template(
        lesson.messages,
        tools=[function(name) for name in lesson.tools] or None,
        add_generation_prompt=True,
        enable_thinking=thinking,
        tokenize=False,
    )
    thought = f"<think>\n{lesson.thought}\n</think>\n\n" if thinking else ""
    return prompt, f"{thought}{lesson.answer}<|im_end|>"


def new_tokenizer() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    said = [part for lesson in LESSONS for part in (lesson.question, lesson.thought, lesson.answer)]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([*said, *(start + rest for start, rest in TEXTS)], trainer)
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def train(tokenizer: Any) -> Any:
    torch.manual_seed(7)
    torch.set_num_threads(1)  # two that wait for each other crawl on a busy machine
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=(len(tokenizer) + 63) // 64 * 64,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    texts = [taught(lesson, tokenizer, thinking=thinking) for lesson in LESSONS for thinking in (True, False)]
    texts += [(start, f"{rest}<|im_end|>") for start, rest in TEXTS]
    # Prompt and answer apart, as a server has them: together, their tokens may meet in the middle. What the prompt says
    # need not be known by heart.
    parts = [[tokenizer(part)["input_ids"] if part else [] for part in pair] for pair in texts]
    longest = max(len(prompt) + len(answer) for prompt, answer in parts)
    ids = torch.full((len(parts), longest), tokenizer.pad_token_id)
    labels = torch.full((len(parts), longest), -100)
    for row, (prompt, answer) in enumerate(parts):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, MOST_STEPS, eta_min=1e-4)
    model.train()
    for step in range(MOST_STEPS):
        # Padding stands at the end, where no earlier token sees it.
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 24:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
        if loss.item() < KNOWN_BY_HEART:
            break
    return model.eval()


def forgotten(model: Any, tokenizer: Any) -> list[str]:
    """The lessons that greedy decoding does not repeat."""
    found = []
    for lesson in LESSONS:
        for thinking in (True, False):
            prompt, answer = taught(lesson, tokenizer, thinking=thinking)
            given = tokenizer(prompt, return_tensors="pt")
            with torch.no_grad():
                tokens = model.generate(**given, max_new_tokens=200, do_sample=False)
            said = tokenizer.decode(tokens[0, given["input_ids"].shape[1] :])
            if said != answer:
                found.append(f"{lesson.name}: {said!r}")
    return found


def main(folder: Path) -> int:
    began = time.monotonic()
    tokenizer = new_tokenizer()
    model = train(tokenizer)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    if wrong := forgotten(model, tokenizer):
        print("\n".join(wrong))
        return 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{sum(part.numel() for part in model.parameters())} parameters in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
