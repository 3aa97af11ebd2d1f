"""The strings of the tokenizer vectors, from a seed. tests/text/string_generator.cpp is the same
program in C++: change both. Integers only, so that both make the same strings."""
import json
import pathlib

MASK = (1 << 64) - 1

DATA = json.loads(pathlib.Path(__file__).with_name("fragments.json").read_text())
POOLS = list(DATA["pools"].values())  # fragments of text by kind
EDGE = DATA["edge"]  # characters among which the patterns of the pre-tokenizers decide
BLOCKS = DATA["blocks"]  # first code point and size of what random characters come from
REPEATED = DATA["repeated"]  # units of the long strings


class Random:
    """SplitMix64."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % n


def character(r):
    while True:
        if r.below(8) == 0:
            c = r.below(0x110000)
        else:
            first, size = BLOCKS[r.below(len(BLOCKS))]
            c = first + r.below(size)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def edge(r):
    return EDGE[r.below(len(EDGE))]


def fragments_of(r, fragments, count):
    return "".join(fragments[r.below(len(fragments))] for _ in range(count))


def pool(r):
    return POOLS[r.below(len(POOLS))]


def mixed(r):
    return "".join(fragments_of(r, pool(r), 1 + r.below(3)) for _ in range(1 + r.below(8)))


def mutated(r):
    text = list(mixed(r))
    for _ in range(1 + r.below(4)):
        at = r.below(len(text) + 1)
        if r.below(2) == 0:
            text.insert(at, edge(r))
        elif at < len(text):
            del text[at]
    return "".join(text)


def make_string(index):
    """The string of an index: the kind goes by the index, all else by the seed, which it is."""
    r = Random(index + 1)
    kind = index % 8
    if kind == 0:
        return fragments_of(r, pool(r), 1 + r.below(12))
    if kind == 1:
        return mixed(r)
    if kind == 2:
        return mutated(r)
    if kind == 3:
        return "".join(character(r) for _ in range(1 + r.below(40)))
    if kind == 4:
        return "".join(edge(r) for _ in range(1 + r.below(30)))
    if kind == 5:
        count = 1 + r.below(60)
        return "".join(edge(r) if r.below(3) else character(r) for _ in range(count))
    if kind == 6:
        unit = edge(r) if r.below(2) else mixed(r)[:4]
        return unit * (1 + r.below(300))
    return "".join(fragments_of(r, pool(r), 1) + edge(r) for _ in range(1 + r.below(10)))


def make_long_string(index):
    """About a megabyte of one repeated unit."""
    unit = REPEATED[index]
    return unit * ((1 << 20) // len(unit.encode()))


def make_ids(index, vocab_size):
    r = Random(index + 1_000_001)
    return [r.below(vocab_size) for _ in range(1 + r.below(24))]
