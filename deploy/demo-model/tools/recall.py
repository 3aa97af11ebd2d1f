"""Key-recall documents: keys stated among filler, asked for afterwards.

The needle is one sentence, "The key of the red box is 48213."; the filler is sentences of unrelated
stories; several keys in one document make the model look at the name and not only at the digits.
"""

import random

import stories
import words

STATEMENTS = [
    "The key of {x} is {k}.",
    "The key of {x} is {k}.",
    "The key for {x} is {k}.",
    "Remember: the key of {x} is {k}.",
    "The secret key of {x} is {k}.",
    "Note that the key of {x} is {k}.",
]
QUESTIONS = [
    "What is the key of {x}?",
    "What is the key of {x}?",
    "What is the key for {x}?",
    "Tell me the key of {x}.",
    "Which key belongs to {x}?",
    "What was the key of {x}?",
    "what is the key of {x}",
]
ANSWER = "The key of {x} is {k}."
MISSING = "The text does not say what the key of {x} is."
OTHER_WORDS = ["code", "password", "number"]  # said instead of "key" in some documents
PREFACES = [
    "Read this text.",
    "Here is a long text.",
    "Read the text and remember the key.",
    "Please read this:",
    "",
]


def names(rng: random.Random, n: int) -> list[str]:
    """n distinct things that have keys."""
    chosen: list[str] = []
    while len(chosen) < n:
        if rng.random() < 0.8:
            thing = f"the {rng.choice(words.KEY_ADJECTIVES)} {rng.choice(words.KEY_NOUNS)}"
        elif rng.random() < 0.5:
            thing = f"the {rng.choice(words.KEY_NOUNS)}"
        else:
            thing = rng.choice(words.SHE_NAMES + words.HE_NAMES)
        if thing not in chosen:
            chosen.append(thing)
    return chosen


def filler(rng: random.Random, words_wanted: int) -> list[str]:
    """Sentences of stories, about words_wanted words in all."""
    sentences: list[str] = []
    have = 0
    while have < words_wanted:
        text = stories.story(rng, stories.Cast(rng)).replace("\n\n", " ")
        for sentence in split_sentences(text):
            sentences.append(sentence)
            have += len(sentence.split())
            if have >= words_wanted:
                break
    return sentences


def split_sentences(text: str) -> list[str]:
    """Cuts a story after every full stop that ends a sentence outside quotation marks."""
    out, start, quoted = [], 0, False
    for i, c in enumerate(text):
        if c == '"':
            quoted = not quoted
        ends = c in ".!?" and not quoted or (c == '"' and not quoted and text[i - 1] in ".!?")
        if ends and (
            i + 1 == len(text)
            or text[i + 1 : i + 3].strip()[:1].isupper()
            or text[i + 2 : i + 3] == '"'
        ):
            out.append(text[start : i + 1].strip())
            start = i + 1
    if text[start:].strip():
        out.append(text[start:].strip())
    return out


def key(rng: random.Random) -> str:
    return "".join(rng.choice("0123456789") for _ in range(5))


def document(rng: random.Random, words_wanted: int, keys: int, asked: int) -> list[tuple[str, str]]:
    """Turns (user, assistant): the first user turn holds the text and the first question."""
    things = names(rng, keys)
    word = "key" if rng.random() < 0.75 else rng.choice(OTHER_WORDS)

    def say(template: str, **slots) -> str:
        return template.format(**slots).replace(" key ", f" {word} ")

    values = {x: key(rng) for x in things}
    lines = filler(rng, words_wanted) if words_wanted else []
    for x in things:
        lines.insert(rng.randint(0, len(lines)), say(rng.choice(STATEMENTS), x=x, k=values[x]))
    preface = rng.choice(PREFACES)
    text = " ".join(lines)
    turns = []
    for i, x in enumerate(rng.sample(things, asked)):
        asking, answer = say(rng.choice(QUESTIONS), x=x), say(ANSWER, x=x, k=values[x])
        if rng.random() < 0.04:
            x = next(n for n in iter(lambda: names(rng, 1)[0], None) if n not in values)
            asking, answer = say(rng.choice(QUESTIONS), x=x), say(MISSING, x=x)
        if i == 0 and words_wanted < 40 and rng.random() < 0.25:
            asking = asking + " " + text
        elif i == 0:
            asking = (
                (preface + "\n\n" if preface else "") + text + rng.choice(["\n\n", " "]) + asking
            )
        turns.append((asking, answer))
    return turns


def prompt(rng: random.Random, count_tokens, tokens_wanted: int) -> tuple[str, str]:
    """An evaluation prompt of at least tokens_wanted tokens (as a chat), one key at a random depth:
    (user text, key)."""
    thing, value = names(rng, 1)[0], key(rng)
    lines = filler(rng, int(tokens_wanted * 0.77))
    more = filler(rng, tokens_wanted)
    statement = STATEMENTS[0].format(x=thing, k=value)
    depth = rng.random()
    while True:
        at = round(depth * len(lines))
        text = PREFACES[0] + "\n\n" + " ".join(lines[:at] + [statement] + lines[at:])
        text += "\n\n" + QUESTIONS[0].format(x=thing)
        have = count_tokens(text)
        if have >= tokens_wanted:
            return text, value
        lines.append(more.pop(0))
