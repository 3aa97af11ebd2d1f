"""Makes tiny_bf16.bin and tiny_fp8.bin: what transformers computes in float32 for the tiny
DeepSeek-V3 of tests/support (test_config.cpp holds the same config, hash_checkpoint.cpp the same
weights). Run: python make_goldens.py (torch 2.11, transformers 5.17).

File: int32 header [magic, prompt tokens P, greedy tokens G, vocabulary V], int32 prompt [P],
int32 greedy tokens [G], then float32 logits of every prompt position [P, V], float32 logits that
each greedy token was chosen from [G, V], and float32 logits of the MTP layer at prompt positions
0 to P - 2 [P - 1, V] (the embedding of the next token beside the final-normed hidden state).
"""
import pathlib
import struct
import sys

import numpy as np
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer

CONFIG = dict(
    attention_bias=False, bos_token_id=0, eos_token_id=1, first_k_dense_replace=1,
    hidden_act="silu", hidden_size=256, intermediate_size=640, kv_lora_rank=512,
    max_position_embeddings=256, moe_intermediate_size=160, n_group=4, n_routed_experts=16,
    n_shared_experts=1, norm_topk_prob=True, num_attention_heads=4, num_key_value_heads=4,
    num_experts_per_tok=4, num_hidden_layers=3, q_lora_rank=128, qk_nope_head_dim=128,
    qk_rope_head_dim=64, rms_norm_eps=1e-6, routed_scaling_factor=2.5, tie_word_embeddings=False,
    topk_group=2, v_head_dim=128, vocab_size=512,
    rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, beta_fast=32.0,
                         beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
                         original_max_position_embeddings=64))
PROMPT_TOKENS = 40
GREEDY_TOKENS = 32
MASK = (1 << 64) - 1


def hash_values(name, count):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        x = np.uint64(h) + np.arange(count, dtype=np.uint64) * golden
        x += golden
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    bits = (x >> np.uint64(40)).astype(np.int64) - (1 << 23)
    return torch.from_numpy((bits.astype(np.float64) / 2**23).astype(np.float32))


def quantized(name, shape):
    plain = ("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight", "eh_proj.weight")
    return len(shape) == 2 and not name.endswith(plain)


def spread(name, shape):
    if len(shape) == 1:
        return np.float32(0.25)
    if name.endswith("embed_tokens.weight"):
        return np.float32(1.0)
    if name == "lm_head.weight":
        return np.float32(0.25)
    return np.float32(2.0) / np.sqrt(np.float32(shape[1]))


def weight(name, shape, fp8):
    """float32 values of the checkpoint's tensor `name`."""
    count = int(np.prod(shape))
    width = torch.tensor(spread(name, shape))
    if fp8 and quantized(name, shape):
        codes = (hash_values(name, count) * 256.0).to(torch.float8_e4m3fn).float().view(*shape)
        grid = ((shape[0] + 127) // 128, (shape[1] + 127) // 128)
        scales = hash_values(name + "_scale_inv", grid[0] * grid[1]).view(*grid)
        scales = width / 256.0 * (1.0 + 0.5 * scales)
        full = scales.repeat_interleave(128, 0)[:shape[0]].repeat_interleave(128, 1)[:, :shape[1]]
        return codes * full
    bias = name.endswith("bias")
    center = 1.0 if len(shape) == 1 and not bias else 0.0
    value = (center + width * hash_values(name, count)).view(*shape)
    return value if bias else value.bfloat16().float()


def load(module, prefix, fp8):
    """Fills `module`, whose tensors are named `prefix` + their own name in the checkpoint."""
    state = {}
    for own, tensor in module.state_dict().items():
        name = prefix + own
        if name.endswith("experts.gate_up_proj"):
            at, width = name[:-len("gate_up_proj")], tensor.shape[1] // 2
            state[own] = torch.stack([
                torch.cat([weight(f"{at}{e}.{p}_proj.weight", (width, tensor.shape[2]), fp8)
                           for p in ("gate", "up")]) for e in range(tensor.shape[0])])
        elif name.endswith("experts.down_proj"):
            at = name[:-len("down_proj")]
            shape = tuple(tensor.shape[1:])
            state[own] = torch.stack([weight(f"{at}{e}.down_proj.weight", shape, fp8)
                                      for e in range(tensor.shape[0])])
        else:
            state[own] = weight(name, tuple(tensor.shape), fp8)
    module.load_state_dict(state, strict=True)


def rms(x, scale):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * scale


@torch.no_grad()
def mtp_logits(model, hidden, tokens, fp8):
    """MTP logits at positions 0 to P - 2, from transformers' decoder layer."""
    at = f"model.layers.{CONFIG['num_hidden_layers']}."
    h = CONFIG["hidden_size"]
    layer = DeepseekV3DecoderLayer(model.config, CONFIG["num_hidden_layers"]).float().eval()
    load(layer, at, fp8)
    embedded = model.model.embed_tokens(tokens[:, 1:])
    joined = torch.cat([rms(embedded, weight(at + "enorm.weight", (h,), fp8)),
                        rms(hidden[:, :-1], weight(at + "hnorm.weight", (h,), fp8))], -1)
    x = joined @ weight(at + "eh_proj.weight", (h, 2 * h), fp8).T
    n = x.shape[1]
    positions = torch.arange(n)[None]
    mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
    out = layer(x, attention_mask=mask, position_ids=positions,
                position_embeddings=model.model.rotary_emb(x, positions))
    out = out[0] if isinstance(out, tuple) else out
    return model.lm_head(rms(out, weight(at + "shared_head.norm.weight", (h,), fp8)))[0]


@torch.no_grad()
def make(fp8, path):
    config = DeepseekV3Config(**CONFIG)
    config._attn_implementation = "eager"
    model = DeepseekV3ForCausalLM(config).float().eval()
    load(model, "", fp8)
    prompt = ((hash_values("prompt", PROMPT_TOKENS) + 1.0) * (CONFIG["vocab_size"] // 2)).long()
    tokens = prompt[None]
    hidden = model.model(tokens).last_hidden_state
    prompt_logits = model.lm_head(hidden)[0]
    draft = mtp_logits(model, hidden, tokens, fp8)
    greedy, step_logits = [], []
    for _ in range(GREEDY_TOKENS):
        logits = model(tokens).logits[0, -1]
        step_logits.append(logits)
        greedy.append(int(logits.argmax()))
        tokens = torch.cat([tokens, torch.tensor([[greedy[-1]]])], 1)
    top = torch.stack(step_logits).topk(2).values
    print(path.name, "smallest top-2 margin", float((top[:, 0] - top[:, 1]).min()),
          "logit spread", float(prompt_logits.std()))
    with open(path, "wb") as file:
        file.write(struct.pack("<4i", 0x46474C44, PROMPT_TOKENS, GREEDY_TOKENS, config.vocab_size))
        file.write(prompt.numpy().astype("<i4").tobytes())
        file.write(np.array(greedy, dtype="<i4").tobytes())
        for part in (prompt_logits, torch.stack(step_logits), draft):
            file.write(part.numpy().astype("<f4").tobytes())


if __name__ == "__main__":
    here = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__)
    here = here if here.is_dir() else here.parent
    torch.manual_seed(0)
    make(False, here / "tiny_bf16.bin")
    make(True, here / "tiny_fp8.bin")
