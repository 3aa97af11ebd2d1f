#!/usr/bin/env python3
"""Writes unicode_ranges.inc: the character classes that Hugging Face's tokenizers see, as ranges.

    python make_unicode_ranges.py > ../unicode_ranges.inc

Needs `tokenizers` 0.23 (its Oniguruma is Unicode 16), `unicodedata2` 16.0.0, and a Python 3.11,
whose own unicodedata is Unicode 14 as PCRE2 10.42 is. Classes come from unicodedata2 and are
compared here with what the tokenizers library itself matches; two facts that only the library knows
are measured from it: which characters end a word for `single_word` tokens, and which combining
marks its NFC (Unicode 9) does not know.
"""
import sys
import unicodedata

import unicodedata2
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

LETTER, MARK, NUMBER, PUNCT, SYMBOL, SPACE, WORD, NFC_BOUNDARY = (1 << i for i in range(8))
CATEGORY = {"L": LETTER, "M": MARK, "N": NUMBER, "P": PUNCT, "S": SYMBOL}
LIMIT = 0x110000
CODES = [c for c in range(LIMIT) if not 0xD800 <= c < 0xE000]
BLOCK = 4096


def matched(pattern):
    """The code points that the library's engine matches with a one-character pattern."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    found = set()
    for i in range(0, len(CODES), BLOCK):
        block = CODES[i:i + BLOCK]
        kept = set()
        for _, (a, b) in split.pre_tokenize_str("".join(map(chr, block))):
            kept.update(range(a, b))
        found.update(c for k, c in enumerate(block) if k not in kept)
    return found


def word_characters():
    """Characters before which a single_word token is not recognised."""
    tok = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tok.add_tokens([AddedToken("\u0001Q", single_word=True, normalized=False)])
    wanted = tok.token_to_id("\u0001Q")
    found = set()
    for i in range(0, len(CODES), BLOCK):
        block = [c for c in CODES[i:i + BLOCK] if c != 1]
        text = "".join(chr(c) + "\u0001Q \n" for c in block)
        encoding = tok.encode(text)
        hits = {a for t, (a, _) in zip(encoding.ids, encoding.offsets) if t == wanted}
        found.update(c for k, c in enumerate(block) if 5 * k + 1 not in hits)
    return found


def nfc_boundaries():
    """Characters before which normalization may start afresh: starters that never join what
    precedes them, as the library's NFC knows them."""
    nfc = normalizers.NFC()
    second = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    for c in CODES:
        parts = unicodedata2.decomposition(chr(c))
        if parts and parts[0] != "<" and " " in parts:
            second.add(int(parts.split()[1], 16))
    found = set()
    for c in CODES:
        ch, ccc = chr(c), unicodedata2.combining(chr(c))
        if ccc:
            if ccc < 240:
                text, known = "q\u0345" + ch, "q" + ch + "\u0345"
            else:
                text, known = "q" + ch + "\u0334", "q\u0334" + ch
            decomposes = unicodedata2.normalize("NFC", ch) != ch
            if not decomposes and nfc.normalize_str(text) != known:
                found.add(c)  # a mark newer than the library's NFC: to it, a starter
        elif c not in second and nfc.normalize_str(ch) == ch:
            found.add(c)
        elif c in second and c > 0x3100 and nfc.normalize_str(ch) == ch and not joins(nfc, c):
            found.add(c)
    return found


def joins(nfc, second):
    for c in CODES:
        parts = unicodedata2.decomposition(chr(c))
        if parts and parts[0] != "<" and parts.endswith(f" {second:04X}"):
            text = chr(int(parts.split()[0], 16)) + chr(second)
            if nfc.normalize_str(text) != text:
                return True
    return False


def flags():
    table = [0] * LIMIT
    for c in CODES:
        table[c] = CATEGORY.get(unicodedata2.category(chr(c))[0], 0)
    for letter, bit in CATEGORY.items():
        ours = {c for c in CODES if table[c] & bit}
        assert ours == matched("\\p{%s}" % letter), letter
    measured = {SPACE: matched("\\s"), WORD: word_characters(), NFC_BOUNDARY: nfc_boundaries()}
    for bit, members in measured.items():
        for c in members:
            table[c] |= bit
    return table


def print_rows(items, per_row):
    for i in range(0, len(items), per_row):
        print("    " + " ".join(items[i:i + per_row]))


def main():
    assert unicodedata2.unidata_version == "16.0.0" and unicodedata.unidata_version == "14.0.0"
    table = flags()
    print("// Made by tools/make_unicode_ranges.py from Unicode 16.0 and Hugging Face tokenizers.")
    print("// A range begins at the first number and lasts to the next entry; the second number")
    print("// holds its CharClass bits.")
    print("constexpr ClassRange kClassRanges[] = {")
    rows, last = [], None
    for c in range(LIMIT):
        if table[c] != last:
            rows.append("{%#x,%d}," % (c, table[c]))
            last = table[c]
    print_rows(rows, 6)
    print("};\n")
    print("// What Unicode 16 has in a class and Unicode 14 has not, inside a PCRE2 class.")
    names = (("L", "Letter"), ("M", "Mark"), ("N", "Number"), ("P", "Punct"), ("S", "Symbol"))
    for letter, name in names:
        new = [c for c in CODES if unicodedata2.category(chr(c))[0] == letter
               and unicodedata.category(chr(c))[0] != letter]
        parts, i = [], 0
        while i < len(new):
            j = i
            while j + 1 < len(new) and new[j + 1] == new[j] + 1:
                j += 1
            first, last = "\\\\x{%X}" % new[i], "\\\\x{%X}" % new[j]
            parts.append(first if i == j else f"{first}-{last}")
            i = j + 1
        print(f"constexpr std::string_view kNew{name} =")
        lines = ['"' + "".join(parts[k:k + 4]) + '"' for k in range(0, len(parts), 4)] or ['""']
        print_rows(lines[:-1] + [lines[-1] + ";"], 1)
    print(f"{len(rows)} ranges", file=sys.stderr)


main()
