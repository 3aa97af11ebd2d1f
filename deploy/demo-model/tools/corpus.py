"""The demo model's corpus: a seeded generator of documents.

    python3 corpus.py --seed 1 --documents 20        prints documents, one JSON object a line

A document is a list of turns or a plain text; render() writes it in DeepSeek-V3.1's chat format.
Kinds: story, question, chat (several turns), recall (keys among filler), text (a plain story
without the chat format). """

import argparse
import json
import random

import questions
import recall
import stories
import words

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK = "<think>", "</think>"

SYSTEMS = [
    "You are a helpful assistant.",
    "You are a friendly storyteller.",
    "Answer in one short sentence.",
    "You are a helpful assistant. Answer briefly.",
    "You tell stories to children.",
    "Be kind and brief.",
]

# kind, weight; the weights are of documents, not of tokens
KINDS = [("story", 22), ("question", 40), ("chat", 14), ("recall", 20), ("text", 4)]


def render(document: dict) -> str:
    """The document as the model sees it. History turns carry </think>; a thinking answer follows
    <think>."""
    if "text" in document:
        return BOS + document["text"] + EOS
    out = BOS + document.get("system", "")
    for turn in document["turns"]:
        out += USER + turn["user"] + ASSISTANT
        out += THINK + turn["thought"] + END_THINK if "thought" in turn else END_THINK
        out += turn["answer"] + EOS
    return out


def prompt_of(user: str, system: str = "", thinking: bool = False) -> str:
    """The generation prompt of a single user turn."""
    return BOS + system + USER + user + ASSISTANT + (THINK if thinking else END_THINK)


def story_turns(rng):
    cast = stories.Cast(rng)
    plot = stories.choose_plot(rng, cast)
    turn = {
        "user": questions.careless(rng, stories.request(rng, cast, plot)),
        "answer": stories.story(rng, cast, plot),
    }
    if rng.random() < 0.1:
        turn["thought"] = (
            "The user wants a story. I will write about "
            f"{stories.article(cast.hero)} named {cast.name}."
        )
    return cast, [turn]


def question_turn(rng, may_think=True):
    asked, thought, answer = questions.question(rng)
    turn = {"user": asked, "answer": answer}
    if may_think and rng.random() < 0.15:
        turn["thought"] = thought
    return turn


# What a user says of himself, how he asks for it later, the answer, and the answer if he has not
# said it.
MEMORIES = [
    (
        "My name is {v}.",
        "What is my name?",
        "Your name is {v}.",
        "You have not told me your name.",
        words.SHE_NAMES + words.HE_NAMES,
    ),
    (
        "I live in {v}.",
        "Where do I live?",
        "You live in {v}.",
        "You have not told me where you live.",
        list(words.CAPITALS.values()),
    ),
    (
        "My favourite colour is {v}.",
        "What is my favourite colour?",
        "Your favourite colour is {v}.",
        "You have not told me your favourite colour.",
        words.LISTS["colours"],
    ),
    (
        "My dog is called {v}.",
        "What is my dog called?",
        "Your dog is called {v}.",
        "You have not told me about your dog.",
        words.HE_NAMES,
    ),
    (
        "Remember this number: {v}.",
        "What is the number?",
        "The number is {v}.",
        "You have not told me a number.",
        None,
    ),
    (
        "Remember the word {v}.",
        "What was the word?",
        "The word was {v}.",
        "You have not told me a word.",
        None,
    ),
    (
        "The secret code is {v}.",
        "What is the secret code?",
        "The secret code is {v}.",
        "You have not told me a code.",
        None,
    ),
    (
        "I like {v}.",
        "What do I like?",
        "You like {v}.",
        "You have not told me what you like.",
        words.FOODS,
    ),
]


def remembered(rng, memory) -> str:
    """A value for one of MEMORIES."""
    if "word" in memory[1]:
        return stories.invented(rng)
    if memory[4] is None:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(2, 6)))
    if memory[0].startswith("My name") and rng.random() < 0.3:
        return stories.invented(rng).capitalize()
    return rng.choice(memory[4])


def memory_turns(rng):
    """The user tells something of himself; after some other turns he asks for it."""
    told = rng.sample(MEMORIES, rng.randint(1, 2))
    values = [remembered(rng, m) for m in told]
    if rng.random() < 0.3:
        says, asks, answers = told[0][:3]
        return [
            {"user": says.format(v=values[0]) + " " + asks, "answer": answers.format(v=values[0])}
        ]
    turns = []
    for (says, *_), value in zip(told, values):
        greeting = rng.choice(["Hello! ", "Hi, ", "", ""])
        said = says.format(v=value)
        answer = (
            f"Nice to meet you, {value}!" if says.startswith("My name") else "I will remember that."
        )
        turns.append(
            {
                "user": greeting
                + (
                    said
                    if not greeting.startswith("Hi")
                    else said[0].lower() + said[1:] if said.startswith("My") else said
                ),
                "answer": answer,
            }
        )
    turns += [question_turn(rng, may_think=False) for _ in range(rng.randint(0, 2))]
    for memory, value in zip(told, values):
        turns.append({"user": memory[1], "answer": memory[2].format(v=value)})
    if rng.random() < 0.3:
        other = rng.choice([m for m in MEMORIES if m not in told])
        turns.append({"user": other[1], "answer": other[3]})
    return turns


def chat_turns(rng):
    """Several turns: stories with questions about them, and simple questions between."""
    if rng.random() < 0.25:
        return memory_turns(rng)
    turns = []
    cast = None
    for _ in range(rng.randint(2, 5)):
        roll = rng.random()
        if cast is not None and roll < 0.35:
            asked, answer = stories.follow_up(rng, cast)
            turns.append({"user": asked, "answer": answer})
        elif roll < 0.65 and (cast is None or rng.random() < 0.3):
            another = cast is not None and rng.random() < 0.5
            cast, new = story_turns(rng)
            if another:
                new[0]["user"] = rng.choice(
                    [
                        "Tell me another one.",
                        "Another story, please.",
                        "One more!",
                        "Tell me another story.",
                    ]
                )
            turns += new
        else:
            turns.append(question_turn(rng))
    for turn in turns[:-1]:
        turn.pop("thought", None)
    return turns


def recall_turns(rng):
    roll = rng.random()
    if roll < 0.35:
        length, keys = rng.randint(0, 60), rng.randint(1, 8)
    elif roll < 0.6:
        length, keys = rng.randint(60, 350), rng.randint(1, 10)
    elif roll < 0.97:
        length, keys = rng.randint(350, 860), rng.randint(1, 12)
    else:
        length, keys = rng.randint(860, 1450), rng.randint(1, 12)
    if rng.random() < 0.2:
        keys = 1
    turns = recall.document(rng, length, keys, rng.randint(1, keys))
    return [{"user": user, "answer": answer} for user, answer in turns]


def document(rng: random.Random, kind: str | None = None) -> dict:
    """One document: {"kind", "turns" or "text", "system"?}."""
    kind = kind or rng.choices([k for k, _ in KINDS], [w for _, w in KINDS])[0]
    if kind == "text":
        cast = stories.Cast(rng)
        return {"kind": kind, "text": stories.story(rng, cast)}
    if kind == "story":
        turns = story_turns(rng)[1]
    elif kind == "question":
        turns = [question_turn(rng)]
    elif kind == "chat":
        turns = chat_turns(rng)
    else:
        turns = recall_turns(rng)
    out = {"kind": kind, "turns": turns}
    if rng.random() < 0.12:
        out["system"] = rng.choice(SYSTEMS)
    return out


def documents(seed: int, n: int, kind: str | None = None) -> list[dict]:
    """n documents; the same seed gives the same documents on every machine."""
    rng = random.Random(seed)
    return [document(rng, kind) for _ in range(n)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--kind", choices=[k for k, _ in KINDS])
    args = parser.parse_args()
    for one in documents(args.seed, args.documents, args.kind):
        print(json.dumps(one, ensure_ascii=False))


if __name__ == "__main__":
    main()
