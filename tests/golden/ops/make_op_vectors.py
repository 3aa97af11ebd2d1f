"""Makes op_vectors.bin: what PyTorch computes in float64 for the attention and expert cases of
tests/ops (attention_cases.cpp and moe_cases.cpp hold the same shapes, op_inputs.h the same
numbers). Run: python make_op_vectors.py (torch 2.11; a minute).

`reference` is the plain formula: keys and values made from the latents, softmax, sum. `native` goes
the way of docs/numerics.md in float64 and rounds where that page says a value is rounded; attention
there has the absorbed form.

File: int32 magic, int32 vectors; each int32 bytes of its name, name, int32 numbers, float32s.
"""
import pathlib
import struct

import numpy as np
import torch

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(x):
    x = (x + GOLDEN) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def numbers(seed, *shape):
    """Uniform float32 in [-1, 1)."""
    with np.errstate(over='ignore'):
        x = np.arange(np.prod(shape), dtype=np.uint64) * np.uint64(GOLDEN)
        x += np.uint64((splitmix64(seed) + GOLDEN) & MASK)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    bits = (x >> np.uint64(40)).astype(np.int64) - (1 << 23)
    return torch.from_numpy((bits.astype(np.float64) / 2**23).astype(np.float32)).view(*shape)


def spread(values, by):
    return torch.tensor(by, dtype=torch.float32) * values


def bf16(x):
    return x.to(torch.bfloat16).double()


def act(x, native):
    return bf16(x) if native else x.double()


def weight(rows, columns, fp8, seed, width):
    """float64 values of a stored matrix."""
    width = np.float32(width)
    if not fp8:
        return bf16(spread(numbers(seed, rows, columns), width))
    codes = (numbers(seed, rows, columns) * 256.0).to(torch.float8_e4m3fn).float()
    grid = ((rows + 127) // 128, (columns + 127) // 128)
    scales = spread(1.0 + 0.5 * numbers(seed + 1, *grid), width / np.float32(256.0))
    scales = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
    return codes.double() * scales.double()


def width_of(columns):
    return np.float32(2.0) / np.sqrt(np.float32(columns))


def quantized(x, ue8m0):
    """Per row and group of 128 columns; x holds bfloat16 values, columns are whole groups."""
    groups = x.float().view(x.shape[0], -1, 128)
    scale = groups.abs().amax(2, keepdim=True).clamp(min=np.float32(1e-4)) / np.float32(448.0)
    if ue8m0:
        scale = torch.exp2(torch.ceil(torch.log2(scale.double()))).float()
    codes = (groups / scale).to(torch.float8_e4m3fn).double()
    return (codes * scale.double()).view(x.shape)


# ---- Attention. Rows are (context, query, bound).

NOPE, ROPE, VALUE, LORA = 128, 64, 128, 512
ENTRY = LORA + ROPE
PERIOD = 1 << 20


def decode(context):
    return (context, 1, 1)


# name, heads, rows before prefill, padding row, prefill rows, FP8 kv_b, block tokens, seed
ATTENTION = [
    ('decode', 16, [decode(c) for c in (0, 1, 63, 64, 65, 130, 411)], True, [], False, 64, 1),
    ('verify', 4, [(70, 3, 3), (126, 1, 3), (5, 2, 3), (40, 0, 3), (62, 3, 3)], True, [], False,
     64, 2),
    ('prefill', 4, [], False, [(0, 21, 21), (70, 20, 24), (128, 5, 5)], True, 64, 3),
    ('mixed', 16, [decode(33), (100, 2, 2), decode(0)], True, [(20, 6, 6), (0, 3, 3)], True, 16, 4),
    ('wide', 128, [decode(100), decode(7)], False, [], False, 64, 5),
]


def prime_from(n):
    while n == 5 or any(n % d == 0 for d in range(2, int(n**0.5) + 1)):
        n += 1
    return n


def row_blocks(rows, block_tokens):
    """Block ids of each row."""
    counts = [max(1, -(-(context + query) // block_tokens)) for context, query, _ in rows]
    needed = sum(counts)
    prime = prime_from(needed + needed // 2 + 3)
    ids = [1 + i * 5 % prime for i in range(needed)]
    return [[ids.pop(0) for _ in range(n)] for n in counts]


def rope(x, position):
    """x: [..., 64], pairs interleaved."""
    angle = position * 10000.0 ** (-torch.arange(32, dtype=torch.float64) / 32.0)
    c, s = torch.cos(angle).float().double(), torch.sin(angle).float().double()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * c - odd * s, odd * c + even * s), -1).flatten(-2)


def new_entry(kv_a, norm, position):
    latent = kv_a[:LORA]
    latent = latent / torch.sqrt((latent * latent).mean() + float(np.float32(1e-6))) * norm
    return torch.cat((latent, rope(kv_a[LORA:], position)))


def cached_entries(blocks, count, block_tokens, cache):
    places = [blocks[p // block_tokens] * block_tokens + p % block_tokens for p in range(count)]
    first = torch.tensor(places, dtype=torch.int64)[:, None] * ENTRY
    return cache[(first + torch.arange(ENTRY)) % PERIOD]


def attend(q, entries, up_key, up_value, position, native):
    """q: [heads, nope + rope], entries: [position + 1, 576]. Returns [heads, value]."""
    scale = float(np.float32(1.0) / np.sqrt(np.float32(NOPE + ROPE)))
    q_rope = rope(q[:, NOPE:], position)
    latents, keys_rope = entries[:, :LORA], entries[:, LORA:]
    if native:
        absorbed = bf16(torch.einsum('hd,hdc->hc', q[:, :NOPE], up_key))
        scores = absorbed @ latents.T + bf16(q_rope) @ keys_rope.T
        powers = scores * scale / np.log(2.0)
        weights = torch.exp2(powers - powers.amax(1, keepdim=True).ceil())
        summed = bf16(bf16(weights) @ latents / weights.sum(1, keepdim=True))
        return bf16(torch.einsum('hc,hvc->hv', summed, up_value))
    keys = torch.einsum('tc,hdc->htd', latents, up_key)
    values = torch.einsum('tc,hvc->htv', latents, up_value)
    scores = torch.einsum('hd,htd->ht', q[:, :NOPE], keys) + q_rope @ keys_rope.T
    return torch.einsum('ht,htv->hv', torch.softmax(scores * scale, 1), values)


def attention(case, native):
    name, heads, before, padding_row, prefill, fp8, block_tokens, seed = case
    real = before + prefill
    blocks = row_blocks(real, block_tokens)
    if padding_row:
        real = before + [(0, 0, 1)] + prefill
        blocks.insert(len(before), [])
    tokens = sum(bound for _, _, bound in real)
    seed = 1000 + 100 * seed
    q = act(spread(numbers(seed, tokens, heads, NOPE + ROPE), 3.0), native)
    kv_a = act(numbers(seed + 1, tokens, ENTRY), native)
    norm = (1.0 + spread(numbers(seed + 2, LORA), 0.25)).double()
    kv_b = weight(heads * (NOPE + VALUE), LORA, fp8, seed + 3,
                  width_of(LORA)).view(heads, NOPE + VALUE, LORA)
    kv_b = bf16(kv_b) if native else kv_b
    cache = act(spread(numbers(seed + 5, PERIOD), 1.5), native)
    out = torch.zeros(tokens, heads, VALUE, dtype=torch.float64)
    stored = torch.zeros(tokens, ENTRY, dtype=torch.float64)
    first = 0
    for (context, query, bound), ids in zip(real, blocks):
        entries = cached_entries(ids, context, block_tokens, cache)
        for i in range(query):
            entry = new_entry(kv_a[first + i], norm, context + i)
            entry = bf16(entry) if native else entry
            stored[first + i] = entry
            entries = torch.cat((entries, entry[None]))
            out[first + i] = attend(q[first + i], entries, kv_b[:, :NOPE], kv_b[:, NOPE:],
                                    context + i, native)
        first += bound
    kind = 'native' if native else 'reference'
    return {f'mla {name} {kind} out': out, f'mla {name} {kind} entries': stored}


# ---- Experts.

HIDDEN = 256
V3 = dict(experts=32, k=8, groups=8, open=4, sigmoid=True, normalize=True, scale=2.5)
LITE = dict(experts=64, k=6, groups=1, open=1, sigmoid=False, normalize=False, scale=1.0)
V2 = dict(experts=16, k=3, groups=4, open=2, sigmoid=False, normalize=False, scale=16.0)
UNEVEN = dict(experts=16, k=2, groups=1, open=1, sigmoid=True, normalize=True, scale=2.5, bias=1.0)
# name, tokens, padding, intermediate, shared intermediate, this rank's experts, router, seed
EXPERTS = [
    ('v3', 9, (3, 8), 128, 128, range(32), V3, 1),
    ('one token', 1, (), 128, 128, range(32), V3, 2),
    ('v2 lite', 5, (), 128, 256, range(64), LITE, 3),
    ('v2', 40, (), 128, 0, range(16), V2, 4),
    ('rank 1 of 4', 12, (0,), 128, 0, range(8, 16), V3, 5),
]
# In native numerics alone.
MANY_TOKENS = [
    ('uneven', 300, (5, 77, 299), 128, 128, range(16), UNEVEN, 6),
    ('rank 1 of 4 many', 90, (0,), 256, 0, range(8, 16), V3, 7),
    ('v2 lite many', 100, (), 128, 256, range(64), LITE, 11),
]


def apart(values, count):
    """The `count` largest, after checking that the next one is well below them."""
    ordered, ids = torch.sort(values, descending=True)
    if count < len(ordered):
        assert ordered[count - 1] - ordered[count] > 2e-5, 'a near tie: choose another seed'
    return ids[:count]


def route(logits, bias, router):
    """(expert, weight) of one token, ascending."""
    scores = torch.sigmoid(logits) if router['sigmoid'] else torch.softmax(logits, 0)
    choices = scores + bias if router['sigmoid'] else scores.clone()
    if router['groups'] > 1:
        grouped = choices.view(router['groups'], -1)
        best = grouped.topk(2 if router['sigmoid'] else 1, 1).values.sum(1)
        closed = torch.ones(router['groups'], dtype=torch.bool)
        closed[apart(best, router['open'])] = False
        choices = grouped.masked_fill(closed[:, None], -torch.inf).flatten()
    chosen = apart(choices, router['k'])
    weights = scores[chosen] * router['scale']
    if router['normalize']:
        weights = weights / scores[chosen].sum()
    return sorted(zip(chosen.tolist(), weights.tolist()))


def expert(x, gate_up, down, width, fp8, ue8m0, native):
    def stored(values):
        values = act(values, native)
        return quantized(values, ue8m0) if fp8 and native else values

    both = act(stored(x) @ gate_up.T, native)
    inner = torch.nn.functional.silu(both[:, :width]) * both[:, width:]
    return act(stored(inner) @ down.T, native)


def experts(case, fp8, ue8m0, native):
    name, tokens, padding, width, shared, here, router, seed = case
    seed = 10000 + 1000 * seed
    x = act(spread(numbers(seed, tokens, HIDDEN), 2.0), native)
    gate = spread(numbers(seed + 1, router['experts'], HIDDEN), width_of(HIDDEN)).double()
    bias = spread(numbers(seed + 2, router['experts']), router.get('bias', 0.1)).double()

    def matrix(rows, columns, at):
        return weight(rows, columns, fp8, seed + at, width_of(columns))

    routed = [[] if t in padding else route(gate @ x[t], bias, router) for t in range(tokens)]
    total = torch.zeros(tokens, HIDDEN, dtype=torch.float64)
    for e in here:
        rows = [(t, w) for t in range(tokens) for chosen, w in routed[t] if chosen == e]
        if not rows:
            continue
        at = torch.tensor([t for t, _ in rows])
        y = expert(x[at], matrix(2 * width, HIDDEN, 10 + 4 * e), matrix(HIDDEN, width, 12 + 4 * e),
                   width, fp8, ue8m0, native)
        total[at] += y * torch.tensor([w for _, w in rows], dtype=torch.float64)[:, None]
    if shared:
        total += expert(x, matrix(2 * shared, HIDDEN, 4), matrix(HIDDEN, shared, 6), shared, fp8,
                        ue8m0, native)
    name += (' ue8m0' if ue8m0 else '') + (' fp8' if fp8 else ' bf16')
    return {f'moe {name} ' + ('native' if native else 'reference'): act(total, native)}


def write(path, vectors):
    with open(path, 'wb') as file:
        file.write(struct.pack('<ii', 0x4650564F, len(vectors)))
        for name, values in vectors.items():
            data = values.float().numpy().astype('<f4').tobytes()
            file.write(struct.pack('<i', len(name)) + name.encode())
            file.write(struct.pack('<i', len(data) // 4) + data)


def main():
    vectors = {}
    for native in (False, True):
        for case in ATTENTION:
            vectors.update(attention(case, native))
        for case in EXPERTS:
            vectors.update(experts(case, False, False, native))
            vectors.update(experts(case, True, False, native))
        vectors.update(experts(EXPERTS[0], True, True, native))
    for case in MANY_TOKENS:
        vectors.update(experts(case, False, False, True))
        vectors.update(experts(case, True, False, True))
    vectors.update(experts(MANY_TOKENS[0], True, True, True))
    write(pathlib.Path(__file__).with_name('op_vectors.bin'), vectors)


if __name__ == '__main__':
    main()
