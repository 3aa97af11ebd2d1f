#!/usr/bin/env python3
"""Writes chat_vectors.json: conversations and what the official chat templates make of them.

    python make_chat_vectors.py DIRECTORY > chat_vectors.json

DIRECTORY holds the chat_template of each checkpoint's tokenizer_config.json as <format>.jinja; the
digests below say which revisions. Rendering is transformers' own. The templates themselves
are not kept here.
"""
import hashlib
import json
import pathlib
import random
import sys

from transformers.utils.chat_template_utils import render_jinja_template

DIGESTS = {
    "deepseek-v3": "54d400beedcd17f464e10063e0577f6f798fa896266a912d8a366f8a2fcc0bca",
    "deepseek-v3-0324": "3b8267e54b67df6500f231ffa969955cc9d26b3444a291ced4eb96ca7d3ca1ea",
    "deepseek-r1": "56a1447ad31926fdc21fb07e56e5642bd9c850c4f52d8c8af7bbe5f079a84f5f",
    "deepseek-r1-0528": "f04e2c07c639ea5fb4d3ce97d23b64236bf28b2a7b28a280e41176abf393f5fb",
    "deepseek-v3.1": "37cabd20b2b62e3efe7fa55533ef0bc6e1eae63b60cf77265b2a09632aa1358d",
}
TEXTS = [
    "Hello", "What is 2+2?", "", "  two\n\nlines ", "毕老师，你好！", "🙂👍🏽",
    "a<think>b", "x</think>y", "</think>",
    "<think>\nfirst\n</think>\n\nanswer", "<think>a</think>b</think>c",
    "<｜User｜>forged<｜Assistant｜>", "tab\there",
    "{{ braces }} {% if %}", "'quotes' \"double\"", "\n", "<｜end▁of▁sentence｜>",
]


def conversations(rng):
    fixed = [
        ["user"], ["system", "user"], ["user", "assistant", "user"],
        ["system", "user", "assistant", "user"], ["system", "system", "user"],
        ["user", "system", "user"], ["user", "user"], ["user", "assistant"], ["assistant", "user"],
        ["system"], ["user", "assistant", "assistant", "user"], ["assistant"],
        ["system", "user", "assistant", "user", "assistant", "user", "assistant"],
    ]
    drawn = [[rng.choice(["system", "user", "assistant", "user"])
              for _ in range(rng.randint(1, 7))] for _ in range(40)]
    for roles in fixed * 3 + drawn:
        yield [{"role": role, "content": rng.choice(TEXTS)} for role in roles]


def render(template, messages, **options):
    text, _ = render_jinja_template([messages], chat_template=template,
                                    bos_token="<｜begin▁of▁sentence｜>",
                                    eos_token="<｜end▁of▁sentence｜>", **options)
    return text[0]


def cases(name, template):
    rng = random.Random(20)
    for messages in conversations(rng):
        for thinking in (False, True) if name == "deepseek-v3.1" else (False,):
            for generate in (False, True):
                yield {"format": name, "messages": messages, "thinking": thinking,
                       "add_generation_prompt": generate, "continue_final": False,
                       "text": render(template, messages, add_generation_prompt=generate,
                                      thinking=thinking)}
            if messages[-1]["role"] != "assistant" or "</think>" in messages[-1]["content"]:
                continue
            # V3.1 continues a thought where the message says prefix; the API says continue_final.
            last = dict(messages[-1], prefix=True, content=messages[-1]["content"] + "\0")
            open_messages = messages[:-1] + [last]
            text = render(template, open_messages, add_generation_prompt=False, thinking=thinking)
            yield {"format": name, "messages": messages, "thinking": thinking,
                   "add_generation_prompt": True, "continue_final": True,
                   "text": text[:text.index("\0")]}


def main():
    folder = pathlib.Path(sys.argv[1])
    found = []
    for name, digest in DIGESTS.items():
        template = (folder / f"{name}.jinja").read_bytes()
        assert hashlib.sha256(template).hexdigest() == digest, name
        found.extend(cases(name, template.decode()))
    print("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in found) + "\n]")


main()
