#!/usr/bin/env python3
"""Writes tokenizer_vectors.bin: digests of what Hugging Face tokenizers make of strings and ids.

    python make_vectors.py DIRECTORY > tokenizer_vectors.bin

DIRECTORY holds deepseek_v3, qwen3 and llama3_1, each with a tokenizer.json or tokenizer.json.xz.
Layout, little-endian uint32: the counts of strings, long strings and id sequences; a digest of
every string; then for each tokenizer, two for every string (ids, decoded text) and two for every
id sequence (text, text without specials). A digest is a CRC-32, of UTF-8 bytes or of int32 ids.
"""
import array
import lzma
import pathlib
import sys
import zlib

import string_generator as generator
from tokenizers import Tokenizer

STRINGS, SEQUENCES = 20_000, 5_000
TOKENIZERS = ("deepseek_v3", "qwen3", "llama3_1")


def load(folder):
    plain = folder / "tokenizer.json"
    text = plain.read_bytes() if plain.exists() else lzma.open(f"{plain}.xz").read()
    return Tokenizer.from_str(text.decode())


def crc_text(text):
    return zlib.crc32(text.encode("utf-8"))


def vectors(tokenizer, strings):
    for text in strings:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        yield zlib.crc32(array.array("i", ids).tobytes())
        yield crc_text(tokenizer.decode(ids, skip_special_tokens=False))
    for i in range(SEQUENCES):
        ids = generator.make_ids(i, tokenizer.get_vocab_size())
        yield crc_text(tokenizer.decode(ids, skip_special_tokens=False))
        yield crc_text(tokenizer.decode(ids, skip_special_tokens=True))


def main():
    strings = [generator.make_string(i) for i in range(STRINGS)]
    strings += [generator.make_long_string(i) for i in range(len(generator.REPEATED))]
    out = array.array("I", [STRINGS, len(generator.REPEATED), SEQUENCES])
    out.extend(crc_text(text) for text in strings)
    for name in TOKENIZERS:
        out.extend(vectors(load(pathlib.Path(sys.argv[1]) / name), strings))
        print(name, len(out), file=sys.stderr)
    sys.stdout.buffer.write(out.tobytes())


main()
