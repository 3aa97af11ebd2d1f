"""Trains the demo model's byte-level BPE and writes tokenizer.json and tokenizer_config.json in
DeepSeek-V3's shape.

    python3 tokenizer.py --out DIR

The pre-tokenizer, the decoder and the names of the special tokens are DeepSeek-V3's; merges and ids
are ours. While merges are learnt every digit stands alone, so that no merge joins digits: a key is
then copied digit by digit. """

import argparse
import json
import pathlib

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import corpus
import questions

BASE_VOCAB = 4000
MODEL_VOCAB = 4096  # rows of the embedding: the rows after the last token are padding

SPLITS = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]

# name, special (removed by skip_special_tokens), in V3's order after the base vocabulary
ADDED = [
    ("<think>", False),
    ("</think>", False),
    ("<｜fim▁hole｜>", False),
    ("<｜fim▁begin｜>", False),
    ("<｜fim▁end｜>", False),
    ("<｜User｜>", False),
    ("<｜Assistant｜>", False),
    ("<|EOT|>", True),
    ("<｜tool▁calls▁begin｜>", False),
    ("<｜tool▁calls▁end｜>", False),
    ("<｜tool▁call▁begin｜>", False),
    ("<｜tool▁call▁end｜>", False),
    ("<｜tool▁outputs▁begin｜>", False),
    ("<｜tool▁outputs▁end｜>", False),
    ("<｜tool▁output▁begin｜>", False),
    ("<｜tool▁output▁end｜>", False),
    ("<｜tool▁sep｜>", False),
]
PAD = "<｜▁pad▁｜>"

# DeepSeek-V3.1's conversation: thinking off closes the thought at once, thinking on opens it.
CHAT_TEMPLATE = (
    "{%- if add_generation_prompt is not defined %}{% set add_generation_prompt = false %}"
    "{% endif %}"
    "{%- if thinking is not defined %}{% set thinking = false %}{% endif %}"
    "{%- set state = namespace(system='', started=false, after_user=false, after_tool=false) %}"
    "{%- for message in messages if message['role'] == 'system' %}"
    "{%- set state.system = state.system + ('\n\n' if state.started else '')"
    " + message['content'] %}"
    "{%- set state.started = true %}{%- endfor %}"
    "{{- bos_token + state.system }}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}"
    "{{- '<｜User｜>' + message['content'] }}{% set state.after_user = true %}"
    "{% set state.after_tool = false %}"
    "{%- elif message['role'] == 'assistant' %}"
    "{%- if state.after_user %}{{- '<｜Assistant｜></think>' }}{% endif %}"
    "{%- set content = message['content'] or '' %}"
    "{%- if '</think>' in content %}{% set content = content.split('</think>', 1)[1] %}{% endif %}"
    "{{- content }}"
    "{%- if message['tool_calls'] is defined and message['tool_calls'] %}"
    "{{- '<｜tool▁calls▁begin｜>' }}"
    "{%- for call in message['tool_calls'] %}"
    "{{- '<｜tool▁call▁begin｜>' + call['function']['name'] + '<｜tool▁sep｜>'"
    " + call['function']['arguments']"
    " + '<｜tool▁call▁end｜>' }}"
    "{%- endfor %}{{- '<｜tool▁calls▁end｜>' }}{% endif %}"
    "{{- '<｜end▁of▁sentence｜>' }}{% set state.after_user = false %}"
    "{% set state.after_tool = false %}"
    "{%- elif message['role'] == 'tool' %}"
    "{{- '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' }}"
    "{%- set state.after_user = false %}{% set state.after_tool = true %}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt and state.after_user %}"
    "{{- '<｜Assistant｜>' + ('<think>' if thinking else '</think>') }}{% endif %}"
)


def texts(documents: int):
    """The strings that merges are learnt from: the corpus without its control tokens."""
    for one in corpus.documents(7, documents):
        if "text" in one:
            yield one["text"]
        for turn in one.get("turns", []):
            yield turn["user"]
            yield turn["answer"]
            if "thought" in turn:
                yield turn["thought"]
        if "system" in one:
            yield one["system"]
    yield from questions.OTHER_SCRIPTS


def pre_tokenizer(split_digits: bool):
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS]
    if split_digits:
        steps.insert(0, pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"))
    steps.append(
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)
    )
    return pre_tokenizers.Sequence(steps)


def train(documents: int) -> dict:
    """tokenizer.json as a dictionary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(split_digits=True)
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_VOCAB,
        min_frequency=20,
        special_tokens=[corpus.BOS, corpus.EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(documents), trainer)
    tokenizer.pre_tokenizer = pre_tokenizer(split_digits=False)
    tokenizer.decoder = decoders.ByteLevel()
    data = json.loads(tokenizer.to_str())
    data["normalizer"] = {"type": "Sequence", "normalizers": []}
    data["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": False,
        "use_regex": True,
    }
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    base = len(data["model"]["vocab"])
    data["added_tokens"] = [
        {"id": i, "content": name, **plain, "normalized": False, "special": True}
        for i, name in enumerate([corpus.BOS, corpus.EOS, PAD])
    ]
    data["added_tokens"] += [
        {"id": base + i, "content": name, **plain, "normalized": True, "special": special}
        for i, (name, special) in enumerate(ADDED)
    ]
    return data


def tokenizer_config() -> dict:
    def added(content):
        return {
            "__type": "AddedToken",
            "content": content,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }

    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": added(corpus.BOS),
        "clean_up_tokenization_spaces": False,
        "eos_token": added(corpus.EOS),
        "legacy": True,
        "model_max_length": 4096,
        "pad_token": added(corpus.EOS),
        "sp_model_kwargs": {},
        "unk_token": None,
        "tokenizer_class": "LlamaTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--documents", type=int, default=60000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = train(args.documents)
    last = data["added_tokens"][-1]["id"]
    if last >= MODEL_VOCAB:
        raise SystemExit(f"the vocabulary has {last + 1} tokens, the model {MODEL_VOCAB} rows")
    for name, content in (("tokenizer.json", data), ("tokenizer_config.json", tokenizer_config())):
        (args.out / name).write_text(
            json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
    print(f"{len(data['model']['vocab'])} base tokens, {last + 1} in all")


if __name__ == "__main__":
    main()
