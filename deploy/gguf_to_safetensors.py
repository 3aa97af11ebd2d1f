#!/usr/bin/env python3
"""Converts a GGUF file of the Llama architecture to a checkpoint in the Hugging Face layout, with
BF16 weights: python3 gguf_to_safetensors.py MODEL.gguf DIRECTORY. Needs NumPy.

Reads F32, F16, BF16, Q4_1 and Q8_0, and a byte-level BPE vocabulary ("gpt2"). GGUF
keeps the rows of q_proj and k_proj in the order of interleaved rope pairs; Hugging Face's layout
has halves.
"""
import json
import pathlib
import struct
import sys

import numpy as np

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
           11: "<q", 12: "<d"}
NAMES = {"token_embd.weight": "model.embed_tokens.weight",
         "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
LAYER_NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj",
               "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
               "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
               "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
# What splits text before BPE, by the vocabulary's pre-tokenizer.
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": True}
PRETOKENIZERS = {"smollm": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
                 "gpt-2": [BYTE_LEVEL]}
NORMAL, CONTROL = 1, 3


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def scalar(self, form):
        value = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def text(self):
        n = self.scalar("<Q")
        self.at += n
        return bytes(self.data[self.at - n:self.at]).decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, n = self.scalar("<I"), self.scalar("<Q")
            return [self.value(inner) for _ in range(n)]
        return self.scalar(SCALARS[kind])


def halves(blocks, offset):
    return blocks[:, offset:offset + 2].copy().view("<f2").astype(np.float32)


def nibbles(codes):
    return np.concatenate([codes & 15, codes >> 4], 1).astype(np.float32)


# GGML type: bytes a block, values a block, how a block's bytes become float32.
TYPES = {
    0: (4, 1, lambda b: b.view("<f4")),
    1: (2, 1, lambda b: b.view("<f2").astype(np.float32)),
    3: (20, 32, lambda b: halves(b, 0) * nibbles(b[:, 4:]) + halves(b, 2)),
    8: (34, 32, lambda b: halves(b, 0) * b[:, 2:].view(np.int8).astype(np.float32)),
    30: (2, 1, lambda b: (b.view("<u2").astype(np.uint32) << 16).view(np.float32)),
}


def read_gguf(path):
    reader = Reader(np.memmap(path, mode="r"))
    if reader.scalar("<I") != 0x46554747 or reader.scalar("<I") not in (2, 3):
        sys.exit(f"{path} is not a GGUF file of version 2 or 3")
    tensors, pairs = reader.scalar("<Q"), reader.scalar("<Q")
    meta = {}
    for _ in range(pairs):
        key = reader.text()
        meta[key] = reader.value(reader.scalar("<I"))
    infos = []
    for _ in range(tensors):
        name = reader.text()
        shape = [reader.scalar("<Q") for _ in range(reader.scalar("<I"))][::-1]
        infos.append((name, shape, reader.scalar("<I"), reader.scalar("<Q")))
    unit = meta.get("general.alignment", 32)
    start = (reader.at + unit - 1) // unit * unit
    return meta, infos, reader.data[start:]


def decode(data, shape, kind, offset):
    if kind not in TYPES:
        sys.exit(f"GGML type {kind} is not supported")
    size, values, convert = TYPES[kind]
    blocks = int(np.prod(shape)) // values
    raw = np.array(data[offset:offset + blocks * size]).reshape(blocks, size)
    return convert(raw).reshape(shape)


def rope_halves(weight, heads):
    rows = weight.shape[0] // heads
    pairs = weight.reshape(heads, rows // 2, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def target_name(name):
    if name in NAMES:
        return NAMES[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"


def bfloat16(values):
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def write_weights(path, meta, infos, data, rows_added):
    header, at, parts = {}, 0, []
    unknown = meta.get("tokenizer.ggml.unknown_token_id", 0)
    for name, shape, kind, offset in infos:
        if name == "rope_freqs.weight":
            sys.exit("a table of rope frequencies is not supported")
        values = decode(data, shape, kind, offset)
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            key = "head_count" if "attn_q" in name else "head_count_kv"
            values = rope_halves(values, meta["llama.attention." + key])
        if name in ("token_embd.weight", "output.weight"):
            values = np.concatenate([values, np.repeat(values[unknown:unknown + 1], rows_added, 0)])
        stored = bfloat16(values).tobytes()
        header[target_name(name)] = {"dtype": "BF16", "shape": list(values.shape),
                                     "data_offsets": [at, at + len(stored)]}
        at += len(stored)
        parts.append(stored)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            file.write(part)


def config_of(meta, tied):
    of = {key[len("llama."):]: value for key, value in meta.items() if key.startswith("llama.")}
    if "rope.scaling.type" in of and of["rope.scaling.type"] != "none":
        sys.exit("scaled rope is not supported")
    return dict(architectures=["LlamaForCausalLM"], model_type="llama", torch_dtype="bfloat16",
                num_hidden_layers=of["block_count"], hidden_size=of["embedding_length"],
                intermediate_size=of["feed_forward_length"],
                num_attention_heads=of["attention.head_count"],
                num_key_value_heads=of["attention.head_count_kv"],
                rms_norm_eps=round(of["attention.layer_norm_rms_epsilon"], 12),
                rope_theta=of.get("rope.freq_base", 10000.0),
                max_position_embeddings=of["context_length"], hidden_act="silu",
                vocab_size=len(meta["tokenizer.ggml.tokens"]), tie_word_embeddings=tied,
                bos_token_id=meta["tokenizer.ggml.bos_token_id"],
                eos_token_id=meta["tokenizer.ggml.eos_token_id"])


def byte_characters():
    """The characters that byte-level BPE writes the 256 bytes with."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def add_missing_bytes(meta):
    """A small vocabulary may lack control characters. Fathom wants a token for every byte: each
    gets an id behind the others, with the embedding of the unknown token. Returns how many."""
    tokens = meta["tokenizer.ggml.tokens"]
    missing = [byte for byte in byte_characters() if byte not in set(tokens)]
    tokens.extend(missing)
    meta["tokenizer.ggml.token_type"].extend([NORMAL] * len(missing))
    return len(missing)


def tokenizer_of(meta):
    pre = meta.get("tokenizer.ggml.pre", "gpt-2")
    if meta["tokenizer.ggml.model"] != "gpt2" or pre not in PRETOKENIZERS:
        sys.exit(f"the vocabulary {meta['tokenizer.ggml.model']}, {pre} is not supported")
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    added = [dict(id=i, content=token, single_word=False, lstrip=False, rstrip=False,
                  normalized=False, special=True)
             for i, token in enumerate(tokens) if kinds[i] == CONTROL]
    return dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
                pre_tokenizer=dict(type="Sequence", pretokenizers=PRETOKENIZERS[pre]),
                post_processor=None, decoder=BYTE_LEVEL,
                model=dict(type="BPE", dropout=None, unk_token=None, fuse_unk=False,
                           byte_fallback=False, ignore_merges=False,
                           vocab={token: i for i, token in enumerate(tokens)},
                           merges=meta["tokenizer.ggml.merges"]))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    meta, infos, data = read_gguf(sys.argv[1])
    if meta["general.architecture"] != "llama":
        sys.exit(f"the architecture {meta['general.architecture']} is not supported")
    out = pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    rows_added = add_missing_bytes(meta)
    tied = all(name != "output.weight" for name, *_ in infos)
    tokens = meta["tokenizer.ggml.tokens"]
    settings = dict(add_bos_token=meta.get("tokenizer.ggml.add_bos_token", False),
                    bos_token=tokens[meta["tokenizer.ggml.bos_token_id"]],
                    eos_token=tokens[meta["tokenizer.ggml.eos_token_id"]])
    for name, content in (("config.json", config_of(meta, tied)),
                          ("tokenizer.json", tokenizer_of(meta)),
                          ("tokenizer_config.json", settings)):
        (out / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_weights(out / "model.safetensors", meta, infos, data, rows_added)


if __name__ == "__main__":
    main()
