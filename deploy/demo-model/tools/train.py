"""Trains the demo model from nothing and writes its BF16 original, its FP8 checkpoint and the
figures of both.

    python3 train.py --out DIR [--train-seconds 380]          about nine minutes on one H100

The corpus is generated in memory by corpus.py; rows of a batch hold one document each and have
equal length, so that every document starts at position 0 and sees nothing else. The last part of
training rounds the weights to FP8 blocks in the forward pass, so that the FP8 checkpoint loses
nothing. """

import argparse
import hashlib
import json
import multiprocessing
import os
import pathlib
import time

import numpy as np
import torch
from tokenizers import Tokenizer

import checkpoint
import corpus
import measure
import model
from optimizer import Muon

HERE = pathlib.Path(__file__).resolve().parent
# Lengths of rows; each step takes one batch from every group, so that short and long documents have
# equal weight.
GROUPS = [[64], [128, 192], [256, 384, 512], [768, 1024, 1280, 2048]]
ANSWER_WEIGHT = 4  # of the answers of recall documents, among tokens of weight 1
PAD = 2
QAT_FROM = 0.7  # part of the training after which weights are rounded to FP8 in the forward pass
BIAS_RATE = 1e-3


def encoded_documents(job) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Row length to (tokens [rows, length] int16, weights [rows, length] uint8) of one seed's
    documents."""
    seed, count, path = job
    tokenizer = Tokenizer.from_file(path)
    end_think, eos = tokenizer.token_to_id("</think>"), tokenizer.token_to_id(corpus.EOS)
    made = corpus.documents(seed, count)
    encodings = tokenizer.encode_batch([corpus.render(d) for d in made], add_special_tokens=False)
    rows: dict[int, list] = {}
    lengths = [length for group in GROUPS for length in group]
    for one, encoding in zip(made, encodings):
        ids = np.array(encoding.ids, dtype=np.int16)
        length = next((n for n in lengths if n >= len(ids)), None)
        if length is None:
            continue
        weights = np.ones(len(ids), dtype=np.uint8)
        if one["kind"] == "recall":
            opened = np.cumsum(ids == end_think) - np.cumsum(np.concatenate(([0], ids[:-1] == eos)))
            weights[(opened > 0) & (ids != end_think)] = ANSWER_WEIGHT
        pad = length - len(ids)
        rows.setdefault(length, []).append(
            (np.pad(ids, (0, pad), constant_values=PAD), np.pad(weights, (0, pad)))
        )
    return {
        n: (np.stack([r[0] for r in made]), np.stack([r[1] for r in made]))
        for n, made in rows.items()
    }


def load_corpus(
    documents: int, tokenizer_path: pathlib.Path, device
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    jobs_wanted = max(1, documents // 10000)
    jobs = [(1000 + i, documents // jobs_wanted, str(tokenizer_path)) for i in range(jobs_wanted)]
    with multiprocessing.get_context("spawn").Pool(min(jobs_wanted, os.cpu_count())) as pool:
        parts = pool.map(encoded_documents, jobs, chunksize=1)
    out = {}
    for length in [n for group in GROUPS for n in group]:
        have = [part[length] for part in parts if length in part]
        if have:
            out[length] = tuple(
                torch.from_numpy(np.concatenate([h[i] for h in have])).to(device) for i in (0, 1)
            )
    return out


class Batches:
    """Draws batches of a fixed number of tokens, each of rows of one length."""

    def __init__(self, rows, tokens: int, seed: int, device):
        self.rows, self.tokens = rows, tokens
        self.random = np.random.default_rng(seed)
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self.device = device

    def draw(self, group: list[int]):
        have = [n for n in group if n in self.rows and n <= self.tokens]
        share = np.array([self.rows[n][0].numel() for n in have], dtype=np.float64)
        length = int(self.random.choice(have, p=share / share.sum()))
        tokens, weights = self.rows[length]
        pick = torch.randint(
            len(tokens), (self.tokens // length,), generator=self.generator, device=self.device
        )
        return tokens[pick].long(), weights[pick].float()


def working_weights(parameters, dtype, qat: bool):
    """Leaves for one step: the weights as the forward pass uses them, rounded to FP8 blocks if
    qat."""
    out = {}
    with torch.no_grad():
        source = model.rounded(parameters, fp8=True) if qat else parameters
        for name, w in source.items():
            wide = name.endswith("norm") or name == "router"
            out[name] = w.to(torch.float32 if wide else dtype, copy=True).requires_grad_()
    return out


def unstacked(leaves):
    """Stacks of layers as lists of their layers, so that a layer's gradient does not touch the
    others."""
    single = ("embed", "head", "norm", "dense_gate", "dense_up", "dense_down")
    return {n: w if n in single or n.startswith("mtp_") else w.unbind(0) for n, w in leaves.items()}


def shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """x [rows, length] moved left, zeros at the end, flat."""
    return torch.nn.functional.pad(x[:, by:], (0, by)).reshape(-1)


def batch_loss(demo, leaves, bias, tokens, weights, mtp_weight):
    """(loss to differentiate, figures, expert counts) of one batch of rows."""
    w = unstacked(leaves)
    hidden, counts = demo.hidden(w, bias, tokens)
    dtype = leaves["head"].dtype
    losses, hits = demo.losses(hidden.to(dtype), w["head"], shifted(tokens, 1))
    share = shifted(weights, 1)
    loss = (losses * share).sum() / share.sum()
    mtp, mtp_count = demo.mtp_hidden(w, bias, tokens, hidden)
    mtp_losses, mtp_hits = demo.losses(mtp.to(dtype), w["head"], shifted(tokens, 2))
    mtp_share = shifted(weights, 2)
    mtp_loss = (mtp_losses * mtp_share).sum() / mtp_share.sum()
    answers = share == ANSWER_WEIGHT
    figures = torch.stack(
        (
            loss,
            mtp_loss,
            (mtp_hits & (mtp_share > 0)).sum() / (mtp_share > 0).sum(),
            (hits & answers).sum() / answers.sum().clamp_min(1),
        )
    ).detach()
    return loss + mtp_weight * mtp_loss, figures, torch.stack(counts + [mtp_count])


class Trainer:
    """Owns the parameters, the correction bias and the optimizers."""

    def __init__(self, shape, device, seed: int, compiled: bool):
        self.shape, self.device = shape, device
        self.parameters = {
            n: w.to(device).requires_grad_() for n, w in model.init_parameters(shape, seed).items()
        }
        self.bias = torch.zeros(shape.layers, shape.experts, device=device)
        self.demo = model.Demo(shape, device, compiled)
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        matrices = [w for n, w in self.parameters.items() if n in model.FP8_NAMES or n == "mtp_eh"]
        others = [
            w for n, w in self.parameters.items() if not (n in model.FP8_NAMES or n == "mtp_eh")
        ]
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)

    def step(self, batches, rate: float, qat: bool, bias_rate: float) -> torch.Tensor:
        """One update from several batches; their figures, [batches, 4]."""
        leaves = working_weights(self.parameters, self.dtype, qat)
        for w in self.parameters.values():
            w.grad = torch.zeros_like(w)
        figures, load = [], 0
        for tokens, weights in batches:
            loss, figure, counts = batch_loss(self.demo, leaves, self.bias, tokens, weights, 0.3)
            (loss / len(batches)).backward()
            for name, leaf in leaves.items():
                self.parameters[name].grad += leaf.grad
                leaf.grad = None
            figures.append(figure)
            load = load + counts
        self.muon.step(rate)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        mean = load.float().mean(-1, keepdim=True)
        self.bias += bias_rate * torch.sign(mean - load)
        self.load = load
        return torch.stack(figures)


def train(trainer, batches, seconds: float, peak: float, groups) -> dict:
    """Trains for a time; the rate rises for 100 steps and falls linearly with time to zero."""
    start, step, tokens = time.time(), 0, 0
    while (part := (time.time() - start) / seconds) < 1:
        chosen = [groups[min(i, 2)] if part < 0.1 else g for i, g in enumerate(groups)]
        rate = peak * min(1.0, (step + 1) / 100) * max(0.0, 1 - part)
        drawn = [batches.draw(g) for g in chosen]
        figures = trainer.step(drawn, rate, part >= QAT_FROM, BIAS_RATE if part < 0.9 else 0.0)
        step += 1
        tokens += sum(t.numel() for t, _ in drawn)
        if step % 100 == 0 or step in (1, 10, 20, 50):
            f = figures.mean(0).tolist()
            each = " ".join(f"{x:.3f}" for x in figures[:, 0].tolist())
            spread = (trainer.load.float().amax(-1) / trainer.load.float().mean(-1)).amax().item()
            print(
                f"step {step} {time.time() - start:.0f}s"
                f" {tokens / (time.time() - start) / 1e6:.2f}Mtok/s loss {f[0]:.4f} [{each}]"
                f" mtp {f[1]:.4f} hit {f[2]:.3f} recall {figures[-1, 3]:.4f} load {spread:.2f}",
                flush=True,
            )
    return {"steps": step, "tokens": tokens, "seconds": round(time.time() - start, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--tokenizer", type=pathlib.Path, default=HERE.parent / "tokenizer.json")
    parser.add_argument("--heldout", type=pathlib.Path, default=HERE.parent / "heldout.jsonl")
    parser.add_argument("--train-seconds", type=float, default=380)
    parser.add_argument("--documents", type=int, default=600_000)
    parser.add_argument(
        "--tokens", type=int, default=30720, help="tokens of one batch; a step has four batches"
    )
    parser.add_argument("--peak", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=int, default=2048)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    args = parser.parse_args()
    begun = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = model.Shape()
    rows = load_corpus(args.documents, args.tokenizer, device)
    rows = {n: r for n, r in rows.items() if n <= args.longest}
    held = sum(int((r[0] != PAD).sum()) for r in rows.values())
    print(f"corpus: {held / 1e6:.1f} M tokens in {time.time() - begun:.0f} s", flush=True)
    trainer = Trainer(shape, device, args.seed, not args.eager)
    batches = Batches(rows, args.tokens, args.seed, device)
    groups = [[n for n in g if n in rows] for g in GROUPS]
    done = train(trainer, batches, args.train_seconds, args.peak, [g for g in groups if g])
    if device.type == "cuda":
        print(f"memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)

    original = checkpoint.official(shape, trainer.parameters, trainer.bias)
    checkpoint.save(args.out / "bf16", shape, original, 15_500_000)
    figures = {
        "corpus_tokens": held,
        **done,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "seed": args.seed,
        "heldout_sha256": hashlib.sha256(args.heldout.read_bytes()).hexdigest(),
        "command": "python3 deploy/demo-model/tools/train.py --out DIR"
        f" --train-seconds {args.train_seconds:g} --documents {args.documents}"
        f" --peak {args.peak:g}",
    }
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    for name, tensors in (("bf16", original), ("fp8", checkpoint.quantized(original))):
        figures[name] = measure.all_figures(shape, tensors, tokenizer, args.heldout, device)
        print(name, json.dumps(figures[name]), flush=True)
    figures["seconds_in_all"] = round(time.time() - begun, 1)
    (args.out / "training.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
