"""Figures of a checkpoint in float32 by our own model: perplexity on held-out text, MTP's hits,
recall of a key.

Perplexity: every document by itself, its text (which begins with the BOS token) encoded with
control tokens recognised; exp of the mean, over all tokens of all documents but each first, of the
negative log-probability of that token. """

import json
import math
import random

import torch

import checkpoint
import corpus
import model
import recall

RECALL_SEED = 20261122
RECALL_PROMPTS = 200
RECALL_TOKENS = 1000
HELDOUT_SEED = 424242


def heldout(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_heldout(path, tokenizer, limit_bytes: int = 190_000) -> int:
    """Documents of a seed that training does not use; no single questions, since those come from
    closed sets."""
    rng = random.Random(HELDOUT_SEED)
    used, count = 0, 0
    with open(path, "w", encoding="utf-8") as out:
        while True:
            kind = rng.choices(["story", "chat", "recall", "text"], [6, 6, 3, 2])[0]
            text = corpus.render(corpus.document(rng, kind))
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            if len(ids) > 1400:
                continue
            line = json.dumps({"kind": kind, "text": text}, ensure_ascii=False) + "\n"
            used += len(line.encode())
            if used > limit_bytes:
                return count
            out.write(line)
            count += 1


def recall_prompts(tokenizer) -> list[tuple[str, str]]:
    """(user text, key) of the 200 seeded prompts; each prompt is at least 1,000 tokens as a
    chat."""
    rng = random.Random(RECALL_SEED)

    def count(text):
        return len(tokenizer.encode(corpus.prompt_of(text), add_special_tokens=False).ids)

    return [recall.prompt(rng, count, RECALL_TOKENS) for _ in range(RECALL_PROMPTS)]


@torch.no_grad()
def document_figures(demo, w, bias, ids: torch.Tensor) -> tuple[float, int, int, int]:
    """(sum of negative log-probabilities, tokens predicted, MTP hits, MTP tried) of one
    document."""
    hidden, _ = demo.hidden(w, bias, ids[None])
    losses, _ = model.token_losses(hidden, w["head"], torch.roll(ids, -1))
    mtp, _ = demo.mtp_hidden(w, bias, ids[None], hidden)
    hits = (mtp @ w["head"].T).argmax(-1)[:-2] == ids[2:]
    return losses[:-1].double().sum().item(), len(ids) - 1, int(hits.sum()), len(hits)


@torch.no_grad()
def recalled(demo, w, bias, tokenizer, user: str, key: str) -> bool:
    """Whether greedy decoding writes the key: true iff every token of the one expected answer, up
    to the key's last digit, is the argmax given those before it. (A stricter test than finding the
    key in the answer.) """
    thing = user.rsplit("What is the key of ", 1)[1].rstrip("?")
    prompt = tokenizer.encode(corpus.prompt_of(user), add_special_tokens=False).ids
    answer = tokenizer.encode(f"The key of {thing} is {key}", add_special_tokens=False).ids
    ids = torch.tensor(prompt + answer, device=w["head"].device)
    hidden, _ = demo.hidden(w, bias, ids[None])
    best = (hidden[len(prompt) - 1 : -1] @ w["head"].T).argmax(-1)
    return bool((best == ids[len(prompt) :]).all())


def all_figures(
    shape, tensors, tokenizer, heldout_path, device, prompts: int = RECALL_PROMPTS
) -> dict:
    """The figures of a checkpoint's tensors (FP8 or BF16), computed in float32."""
    p, bias = checkpoint.stacked(shape, checkpoint.dequantized(tensors))
    w, bias = {n: t.to(device) for n, t in p.items()}, bias.to(device)
    demo = model.Demo(shape, device)
    total, tokens, hits, tried = 0.0, 0, 0, 0
    by_kind: dict[str, list[float]] = {}
    for one in heldout(heldout_path):
        ids = torch.tensor(
            tokenizer.encode(one["text"], add_special_tokens=False).ids, device=device
        )
        nll, n, hit, tries = document_figures(demo, w, bias, ids)
        total, tokens, hits, tried = total + nll, tokens + n, hits + hit, tried + tries
        kind = by_kind.setdefault(one["kind"], [0.0, 0])
        kind[0], kind[1] = kind[0] + nll, kind[1] + n
    found = sum(
        recalled(demo, w, bias, tokenizer, *one) for one in recall_prompts(tokenizer)[:prompts]
    )
    return {
        "perplexity": math.exp(total / tokens),
        "tokens": tokens,
        "mtp_next_next_top1": hits / tried,
        "perplexity_by_kind": {k: math.exp(v[0] / v[1]) for k, v in by_kind.items()},
        "recall_exact": found,
        "recall_prompts": prompts,
    }
