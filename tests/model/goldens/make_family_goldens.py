"""Makes families/<name>/{config.json,golden.bin}: tiny checkpoints of every family with real head
dimensions, and what transformers computes for them in float32. The weights are those that Fathom
generates from config.json and the seed (src/weights/random_values.cpp, synthetic.cpp), made again
here bit for bit, so that a golden needs no weights beside it and any server can be asked for it:
`fathomd --model families/<name> --load-format synthetic --seed 1`.

Run: python make_family_goldens.py [directory] (torch 2.11, transformers 5.17).

golden.bin: int32 header [magic, seed, prompt tokens P, greedy tokens G, vocabulary V, top K,
projections R], int32 tokens [P + G - 1] (the prompt, then all greedy tokens but the last), int32
the last greedy token, then for each of the P + G - 1 positions: float32 routing gap, float32 root
mean square of the logits, int32 ids of the K largest logits, float32 their values, float32 R
projections (sums of the logits under fixed signs, over sqrt(V)). A routing gap is the smallest
relative distance, over the layers, between the last expert (or group) chosen and the next; 1 where
nothing is routed.
"""
import json
import pathlib
import struct
import sys

import numpy as np
import torch
import transformers

MAGIC, TOP, PROJECTIONS = 0x32474C46, 8, 8
PROMPT_TOKENS, GREEDY_TOKENS, SEED, VOCAB = 40, 32, 1, 512
STEP = np.uint64(0x9E3779B97F4A7C15)

COMMON = dict(hidden_act="silu", hidden_size=256, intermediate_size=320,
              max_position_embeddings=256, num_hidden_layers=3, num_attention_heads=4,
              rms_norm_eps=1e-6, vocab_size=VOCAB, bos_token_id=0, eos_token_id=1,
              torch_dtype="bfloat16", tie_word_embeddings=False)
FP8 = dict(quantization_config=dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic",
                                    weight_block_size=[128, 128]))
V2 = dict(COMMON, architectures=["DeepseekV2ForCausalLM"], model_type="deepseek_v2",
          attention_bias=False, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
          v_head_dim=128, num_key_value_heads=4, first_k_dense_replace=1, moe_layer_freq=1,
          moe_intermediate_size=96, n_routed_experts=16, n_shared_experts=2, num_experts_per_tok=4,
          scoring_func="softmax", norm_topk_prob=False, rope_theta=10000)
V2_LITE = dict(V2, q_lora_rank=None, n_group=1, topk_group=1, topk_method="greedy",
               routed_scaling_factor=1.0)
# A tenth of V2's factor, for a tenth of its experts: a chosen one's probability is ten times V2's.
V2_FULL = dict(V2, q_lora_rank=128, n_group=4, topk_group=2, topk_method="group_limited_greedy",
               routed_scaling_factor=1.6)

DENSE = dict(COMMON, head_dim=128, num_key_value_heads=2, rope_theta=10000.0)
LLAMA = dict(DENSE, architectures=["LlamaForCausalLM"], model_type="llama", attention_bias=False)
LLAMA3 = dict(rope_theta=500000.0,
              rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                high_freq_factor=4.0, original_max_position_embeddings=64))
QWEN2 = dict(DENSE, architectures=["Qwen2ForCausalLM"], model_type="qwen2",
             use_sliding_window=False)
QWEN3 = dict(DENSE, architectures=["Qwen3ForCausalLM"], model_type="qwen3", rope_theta=1000000.0,
             attention_bias=False)


def yarn(factor, positions, **extra):
    return dict(rope_scaling=dict(type="yarn", factor=factor, beta_fast=32, beta_slow=1,
                                  original_max_position_embeddings=positions, **extra))


MSCALE = dict(mscale=0.707, mscale_all_dim=0.707)
CONFIGS = {
    "v2_lite": dict(V2_LITE, **yarn(40, 4096, **MSCALE)),
    "v2_lite_fp8": dict(V2_LITE, **FP8, **yarn(4, 64, **MSCALE)),
    "v2_lite_plain_rope": dict(V2_LITE, tie_word_embeddings=True),
    "v2": dict(V2_FULL, **yarn(40, 4096, **MSCALE)),
    "v2_fp8": dict(V2_FULL, **FP8, **yarn(4, 64, mscale=1.0, mscale_all_dim=1.0)),
    "llama_default": dict(LLAMA, num_key_value_heads=4),
    "llama_linear": dict(LLAMA, rope_theta=100000.0, tie_word_embeddings=True,
                         rope_scaling=dict(type="linear", factor=4.0)),
    "llama_llama3": dict(LLAMA, **LLAMA3, num_attention_heads=8),
    "llama_llama3_fp8": dict(LLAMA, **LLAMA3, **FP8),
    "qwen2": dict(QWEN2),
    "qwen2_one_key_head": dict(QWEN2, rope_theta=1000000.0, num_key_value_heads=1,
                               tie_word_embeddings=True),
    "qwen2_fp8": dict(QWEN2, **FP8),
    "qwen3": dict(QWEN3, tie_word_embeddings=True),
    "qwen3_yarn": dict(QWEN3, **yarn(4.0, 64)),
    "qwen3_yarn_attn_factor": dict(QWEN3, num_attention_heads=8,
                                   **yarn(4.0, 64, attn_factor=0.8782488562869419)),
    "qwen3_fp8": dict(QWEN3, **FP8, **yarn(4.0, 32, attn_factor=0.8782488562869419)),
    "v2_one_mscale": dict(V2_FULL, **yarn(4, 64, mscale=0.707, mscale_all_dim=1.0)),
}


def mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def words(name, count):
    key = mix(np.uint64(SEED) + STEP)
    for byte in name.encode():
        key = mix(key ^ np.uint64(byte)) + STEP
    return mix(key + np.arange(count, dtype=np.uint64) * STEP)


def raw(name, count, dtype):
    """`count` elements of the tensor's random bytes."""
    width = np.dtype(dtype).itemsize
    return words(name, (count * width + 7) // 8).view(dtype)[:count]


def deviation(name, shape, config):
    unit = np.float32(1.0) / np.sqrt(np.float32(shape[1] if len(shape) == 2 else 1))
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        added = np.float32(1.0 if config["tie_word_embeddings"] else 0.125) * unit
        return added / np.sqrt(np.float32(2.0) * np.float32(config["num_hidden_layers"]))
    if name == "lm_head.weight" or name.endswith("mlp.gate.weight"):
        return np.float32(2.0) * unit
    if name.endswith("embed_tokens.weight"):
        return unit if config["tie_word_embeddings"] else np.float32(1.0)
    return np.float32(0.05) if len(shape) == 1 else unit


def bfloat16(name, shape, center, spread):
    step = np.float32(spread) / np.float32(32768.0)
    count = int(np.prod(shape))
    values = np.float64(center) + np.float64(step) * raw(name, count, "<i2")
    bits = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return torch.from_numpy(bits.view(np.float32).reshape(shape))


def quantized(name, shape, spread):
    count = int(np.prod(shape))
    table = torch.from_numpy((448.0 * (np.arange(256) - 127.5) / 128.0).astype(np.float32))
    codes = table.to(torch.float8_e4m3fn).float()
    codes = codes[torch.from_numpy(raw(name, count, "u1").astype(np.int64))]
    grid = ((shape[0] + 127) // 128, (shape[1] + 127) // 128)
    center = spread / np.float32(448.0)
    step = center / np.float32(4.0) / np.float32(2147483648.0)
    ints = raw(name + "_scale_inv", grid[0] * grid[1], "<i4").astype(np.float32)
    scales = (np.float64(center) + np.float64(step) * ints).astype(np.float32).reshape(grid)
    full = scales.repeat(128, 0)[:shape[0]].repeat(128, 1)[:, :shape[1]]
    return codes.view(*shape) * torch.from_numpy(full)


def weight(name, shape, config):
    spread = deviation(name, shape, config) * np.sqrt(np.float32(3.0))
    plain = name.endswith(("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight"))
    if "quantization_config" in config and len(shape) == 2 and not plain:
        return quantized(name, shape, spread)
    center = 1.0 if len(shape) == 1 and not name.endswith("bias") else 0.0
    return bfloat16(name, shape, center, spread)


def load(model, config):
    state = {}
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        if name.endswith("experts.gate_up_proj"):
            at, half = name[:-len("gate_up_proj")], (shape[1] // 2, shape[2])
            state[name] = torch.stack([
                torch.cat([weight(f"{at}{e}.{part}_proj.weight", half, config)
                           for part in ("gate", "up")]) for e in range(shape[0])])
        elif name.endswith("experts.down_proj"):
            at = name[:-len("down_proj")]
            state[name] = torch.stack([weight(f"{at}{e}.down_proj.weight", shape[1:], config)
                                       for e in range(shape[0])])
        elif name == "lm_head.weight" and config["tie_word_embeddings"]:
            state[name] = weight("model.embed_tokens.weight", shape, config)
        else:
            state[name] = weight(name, shape, config)
    model.load_state_dict(state, strict=True)


def oracle(config):
    """The transformers model. It reads attention_factor where the checkpoint of
    R1-0528-Qwen3-8B writes attn_factor, which multiplies the default."""
    keys = {k: v for k, v in config.items() if k not in ("quantization_config", "architectures")}
    scaling = keys.get("rope_scaling") or {}
    if "attn_factor" in scaling:
        scaling = dict(scaling)
        default = 0.1 * np.log(scaling["factor"]) + 1.0
        scaling["attention_factor"] = float(default * scaling.pop("attn_factor"))
        keys["rope_scaling"] = scaling
    name = config["architectures"][0]
    kind = getattr(transformers, name.replace("ForCausalLM", "Config"))
    parsed = kind(**{k: v for k, v in keys.items() if k != "torch_dtype"})
    parsed._attn_implementation = "eager"
    model = getattr(transformers, name)(parsed).float().eval()
    load(model, config)
    return model


def relative_gap(scores, chosen):
    """Of the last chosen and the next of every row."""
    top = scores.topk(chosen + 1).values if chosen < scores.shape[1] else None
    if top is None:
        return torch.ones(scores.shape[0])
    return (top[:, -2] - top[:, -1]) / top[:, -2]


def watch_routing(model, config):
    gaps = []

    def hook(_module, _inputs, output):
        scores = output[0].softmax(-1)
        gap = torch.ones(scores.shape[0])
        if config["topk_method"] == "group_limited_greedy":
            groups = scores.view(scores.shape[0], config["n_group"], -1).max(-1).values
            gap = relative_gap(groups, config["topk_group"])
            kept = groups.topk(config["topk_group"]).indices
            mask = torch.zeros_like(groups).scatter_(1, kept, 1)
            scores = scores * mask.repeat_interleave(scores.shape[1] // groups.shape[1], 1)
        gaps.append(torch.minimum(gap, relative_gap(scores, config["num_experts_per_tok"])))

    for name, module in model.named_modules():
        if name.endswith("mlp.gate"):
            module.register_forward_hook(hook)
    return gaps


def projections(logits):
    columns = np.arange(1, logits.shape[1] + 1, dtype=np.uint64)
    out = []
    for r in range(PROJECTIONS):
        hashed = (columns * np.uint64((2 * r + 1) * 2654435761)) & np.uint64(0xFFFFFFFF)
        signs = np.where(hashed >> np.uint64(31) == 0, 1.0, -1.0)
        out.append(logits.astype(np.float64) @ signs / np.sqrt(logits.shape[1]))
    return np.stack(out, 1)


@torch.no_grad()
def make(name, config, directory):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    model = oracle(config)
    prompt = ((raw("prompt", PROMPT_TOKENS, "<u2").astype(np.int64) * VOCAB) >> 16).tolist()
    tokens, greedy = torch.tensor([prompt]), []
    for _ in range(GREEDY_TOKENS):
        greedy.append(int(model(tokens).logits[0, -1].argmax()))
        tokens = torch.cat([tokens, torch.tensor([[greedy[-1]]])], 1)
    gaps = watch_routing(model, config)
    logits = model(tokens[:, :-1]).logits[0]
    gap = torch.stack(gaps).min(0).values if gaps else torch.ones(logits.shape[0])
    top = logits.topk(TOP)
    margins = (top.values[:, 0] - top.values[:, 1])[PROMPT_TOKENS - 1:]
    rms = logits.pow(2).mean(-1).sqrt()
    projected = projections(logits.numpy())
    with open(directory / "golden.bin", "wb") as file:
        file.write(struct.pack("<7i", MAGIC, SEED, PROMPT_TOKENS, GREEDY_TOKENS, VOCAB, TOP,
                               PROJECTIONS))
        file.write(tokens[0].numpy().astype("<i4").tobytes())
        for i in range(logits.shape[0]):
            file.write(struct.pack("<2f", gap[i], rms[i]))
            file.write(top.indices[i].numpy().astype("<i4").tobytes())
            file.write(top.values[i].numpy().astype("<f4").tobytes())
            file.write(projected[i].astype("<f4").tobytes())
    print(f"{name:20} rms {rms.mean():.2f}, smallest margin {margins.min():.4f}, "
          f"smallest routing gap {gap.min():.5f}, distinct greedy {len(set(greedy))}")


if __name__ == "__main__":
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    np.seterr(over="ignore")
    torch.set_num_threads(1)
    for one, settings in CONFIGS.items():
        make(one, settings, root / "families" / one)
