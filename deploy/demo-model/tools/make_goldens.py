"""Golden answers of the demo model: transformers in float32 on the dequantized FP8 weights as saved
on disk.

    python3 make_goldens.py --model .. --out ../../../tests/demo/goldens

greedy.json: 50 prompts with their greedy tokens (at most 48, the last is EOS where "finish" is
"stop"), and for each the log-probability, the five best (id, log-probability), the margin between
the first and the second, and whether the routing at the position that predicts it was a near tie
(another sum order may choose another expert there). Ten prompts carry log-probabilities of their
own tokens. recall.json: the seeds and the hash of the recall prompts, and their keys. """

import argparse
import hashlib
import json
import pathlib
import random

import torch
from tokenizers import Tokenizer

import checkpoint
import corpus
import measure
import reference

SEED = 777
NEW_TOKENS = 48
NEAR_TIE = 1e-4
ASKED = [
    "Tell me a short story about a fox.",
    "Tell me a story about a robot who is afraid of the dark.",
    "What is the capital of France?",
    "What colour is the sky?",
    "Name three animals.",
    "Count to 10.",
    "What are the months of the year?",
    "What is 7 + 8?",
    "Who are you?",
    "Write a bedtime story about a cat and a dog.",
]


def prompts(tokenizer) -> list[dict]:
    """50 prompts: questions, stories, chats, keys in texts of up to 600 tokens, plain beginnings of
    stories."""
    rng = random.Random(SEED)
    texts = [("chat", corpus.prompt_of(user)) for user in ASKED]
    texts += [("thinking", corpus.prompt_of(user, thinking=True)) for user in ASKED[2:5]]
    for kind, count in (("story", 10), ("question", 3), ("chat", 9), ("recall", 7)):
        while count:
            one = corpus.render(corpus.document(rng, kind))
            text = one[: one.rindex("</think>") + len("</think>")]
            if len(tokenizer.encode(text, add_special_tokens=False).ids) <= 600:
                texts.append((kind, text))
                count -= 1
    for _ in range(8):
        one = corpus.document(rng, "text")["text"]
        texts.append(("plain", corpus.BOS + one[: rng.randint(10, len(one) // 2)]))
    return [{"kind": k, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for k, t in texts]


@torch.no_grad()
def greedy(model, ids: list[int]) -> list[int]:
    eos = model.config.eos_token_id
    out = model.generate(
        torch.tensor([ids]),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=2,
    )
    return out[0, len(ids) :].tolist()


@torch.no_grad()
def golden(model, margins, prompt: dict, with_prompt: bool) -> dict:
    """One prompt's record; log-probabilities come from one forward pass over prompt and answer
    together."""
    ids = prompt["ids"]
    made = greedy(model, ids)
    margins.take()
    logprobs = torch.log_softmax(model(torch.tensor([ids + made])).logits[0].double(), -1)
    ties = margins.take() < NEAR_TIE
    answer = logprobs[len(ids) - 1 : -1]
    best, which = answer.topk(5, -1)
    if not torch.equal(which[:, 0], torch.tensor(made)):
        raise SystemExit("greedy decoding with a cache and one forward pass differ")
    record = {
        "kind": prompt["kind"],
        "prompt": ids,
        "tokens": made,
        "finish": "stop" if made[-1] == model.config.eos_token_id else "length",
        "logprobs": [round(x, 6) for x in best[:, 0].tolist()],
        "top": [
            [[i, round(x, 6)] for i, x in zip(a, b)] for a, b in zip(which.tolist(), best.tolist())
        ],
        "margins": [round(x, 6) for x in (best[:, 0] - best[:, 1]).tolist()],
        "near_ties": ties[len(ids) - 1 : -1].nonzero().flatten().tolist(),
        "prompt_near_ties": ties[: len(ids)].nonzero().flatten().tolist(),
    }
    if with_prompt:
        chosen = logprobs[: len(ids) - 1].gather(-1, torch.tensor(ids[1:])[:, None]).flatten()
        record["prompt_logprobs"] = [None] + [round(x, 6) for x in chosen.tolist()]
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    model = reference.transformers_model(args.model)
    margins = reference.RoutingMargins(model)
    made = [golden(model, margins, p, i % 5 == 0) for i, p in enumerate(prompts(tokenizer))]
    header = {
        "reference": "transformers DeepseekV3ForCausalLM, float32, FP8 weights dequantized",
        "near_tie": NEAR_TIE,
        "weights_sha256": checkpoint.fingerprint(args.model),
        "seed": SEED,
    }
    lines = ",\n".join(json.dumps(r, separators=(",", ":")) for r in made)
    (args.out / "greedy.json").write_text(
        json.dumps(header)[:-1] + ',\n"cases": [\n' + lines + "\n]}\n"
    )
    asked = measure.recall_prompts(tokenizer)
    text = "".join(json.dumps({"user": u, "key": k}, ensure_ascii=False) + "\n" for u, k in asked)
    (args.out / "recall.json").write_text(
        json.dumps(
            {
                "seed": measure.RECALL_SEED,
                "prompts": len(asked),
                "tokens_at_least": measure.RECALL_TOKENS,
                "command": "evaluate.py --model .. --write-recall-prompts FILE",
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
                "keys": [k for _, k in asked],
            },
            indent=1,
        )
        + "\n"
    )
    steps = sum(len(r["tokens"]) for r in made)
    sure = sum(m > 1e-3 for r in made for m in r["margins"])
    ties = sum(len(r["near_ties"]) for r in made)
    print(f"{len(made)} prompts, {steps} tokens, {sure} with a margin over 1e-3, {ties} near ties")


if __name__ == "__main__":
    main()
