"""Evaluates the demo checkpoint as saved on disk with transformers in float32, and writes
metrics.json.

    python3 evaluate.py --model .. [--training training.json] [--samples FILE]
    python3 evaluate.py --model .. --write-recall-prompts FILE        one {"user", "key"} a line

It also asserts that our own model (which trained, and which has the MTP layer) and transformers'
agree within 1e-3. """

import argparse
import hashlib
import json
import math
import pathlib
import time

import torch
from tokenizers import Tokenizer

import checkpoint
import corpus
import measure
import model as ours
import reference

SAMPLES = [
    "Tell me a short story about a fox.",
    "What is the capital of Norway?",
    "Why is the sky blue?",
    "Tell me a story about a robot who is afraid of the dark.",
    "Name three farm animals.",
    "What is 7 + 8?",
    "My name is Zabo. What is my name?",
    "Which is bigger, a mouse or an elephant?",
    "Write a Python program that sorts a list.",
    "Write a bedtime story about a cat and a dog.",
]


@torch.no_grad()
def answer(model, tokenizer, user: str, limit: int) -> str:
    """The greedy answer to one user turn."""
    ids = tokenizer.encode(corpus.prompt_of(user), add_special_tokens=False).ids
    out = model.generate(
        torch.tensor([ids]), max_new_tokens=limit, do_sample=False, eos_token_id=1, pad_token_id=2
    )
    return tokenizer.decode(out[0, len(ids) :].tolist(), skip_special_tokens=True)


@torch.no_grad()
def perplexity(model, tokenizer, documents) -> tuple[float, int]:
    total, tokens = 0.0, 0
    for one in documents:
        ids = torch.tensor([tokenizer.encode(one["text"], add_special_tokens=False).ids])
        logprobs = torch.log_softmax(model(ids).logits[0, :-1].double(), -1)
        total -= logprobs.gather(-1, ids[0, 1:, None]).sum().item()
        tokens += ids.shape[1] - 1
    return math.exp(total / tokens), tokens


@torch.no_grad()
def disagreement(model, folder, tokenizer, documents) -> float:
    """The largest difference of a logit between transformers' model and ours."""
    p, bias = checkpoint.stacked(ours.Shape(), checkpoint.dequantized(checkpoint.load(folder)))
    demo = ours.Demo(ours.Shape(), torch.device("cpu"))
    worst = 0.0
    for one in documents:
        ids = torch.tensor([tokenizer.encode(one["text"], add_special_tokens=False).ids])
        hidden, _ = demo.hidden(p, bias, ids)
        worst = max(worst, (hidden @ p["head"].T - model(ids).logits[0]).abs().max().item())
    return worst


@torch.no_grad()
def mtp_hits(folder, tokenizer, documents) -> float:
    """Share of positions t whose token t+2 is the MTP layer's first choice."""
    p, bias = checkpoint.stacked(ours.Shape(), checkpoint.dequantized(checkpoint.load(folder)))
    demo = ours.Demo(ours.Shape(), torch.device("cpu"))
    hits = tried = 0
    for one in documents:
        ids = torch.tensor(tokenizer.encode(one["text"], add_special_tokens=False).ids)
        _, _, hit, n = measure.document_figures(demo, p, bias, ids)
        hits, tried = hits + hit, tried + n
    return hits / tried


def write_samples(path: pathlib.Path, model, tokenizer) -> None:
    lines = [
        "# Ten answers of the demo model",
        "",
        "Greedy answers (temperature 0) of the checkpoint in `deploy/demo-model`, each to one user",
        "turn in the chat format, thinking off, written by `deploy/demo-model/tools/evaluate.py`.",
        "What the model is for is said in [its README](../deploy/demo-model/README.md).",
        "",
    ]
    for user in SAMPLES:
        said = answer(model, tokenizer, user, 256).strip().replace("\n", "\n> ")
        lines += [f"**{user}**", "", f"> {said}", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--training", type=pathlib.Path)
    parser.add_argument("--samples", type=pathlib.Path)
    parser.add_argument("--write-recall-prompts", type=pathlib.Path)
    parser.add_argument("--prompts", type=int, default=measure.RECALL_PROMPTS)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    asked = measure.recall_prompts(tokenizer)
    if args.write_recall_prompts:
        args.write_recall_prompts.write_text(
            "".join(json.dumps({"user": u, "key": k}, ensure_ascii=False) + "\n" for u, k in asked),
            encoding="utf-8",
        )
        return
    model = reference.transformers_model(args.model)
    heldout_path = args.model / "heldout.jsonl"
    documents = measure.heldout(heldout_path)
    worst = disagreement(model, args.model, tokenizer, documents[:6])
    if worst > 1e-3:
        raise SystemExit(f"transformers' logits and ours differ by {worst}")
    if args.samples:
        write_samples(args.samples, model, tokenizer)
    began = time.time()
    value, tokens = perplexity(model, tokenizer, documents)
    found = sum(key in answer(model, tokenizer, user, 24) for user, key in asked[: args.prompts])
    figures = {
        "heldout": {
            "file": "heldout.jsonl",
            "sha256": hashlib.sha256(heldout_path.read_bytes()).hexdigest(),
            "documents": len(documents),
            "tokens_predicted": tokens,
            "definition": " ".join(measure.__doc__.split("Perplexity: ")[1].split()),
        },
        "weights_sha256": checkpoint.fingerprint(args.model),
        "fp8_transformers_float32": {
            "perplexity": value,
            "recall_exact": found,
            "recall_prompts": args.prompts,
            "mtp_next_next_top1": mtp_hits(args.model, tokenizer, documents),
            "largest_logit_difference_from_training_model": worst,
        },
    }
    if args.training:
        figures["training"] = json.loads(args.training.read_text())
    (args.model / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2), f"\n{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
