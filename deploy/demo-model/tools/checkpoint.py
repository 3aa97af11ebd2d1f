"""Reads and writes the demo model in DeepSeek-V3's checkpoint layout: official names, FP8 blocks,
shards, index."""

import hashlib
import json
import pathlib

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model import Shape, config_json, fp8_blocks, fp8_dequantized

SHARD_BYTES = 14_000_000

GENERATION_CONFIG = {
    "_from_model_config": True,
    "bos_token_id": 0,
    "do_sample": True,
    "eos_token_id": 1,
    "temperature": 0.6,
    "top_p": 0.95,
    "transformers_version": "4.33.1",
}


def official(s: Shape, p: dict[str, torch.Tensor], bias: torch.Tensor) -> dict[str, torch.Tensor]:
    """Stacked parameters as official names, BF16 (the correction bias F32): the BF16 original."""
    out = {
        "model.embed_tokens.weight": p["embed"],
        "model.norm.weight": p["norm"],
        "lm_head.weight": p["head"],
    }
    for i in range(s.layers + 1):
        at = f"model.layers.{i}."
        attention = {
            "q_a_proj": "q_a",
            "q_a_layernorm": "q_norm",
            "q_b_proj": "q_b",
            "kv_a_proj_with_mqa": "kv_a",
            "kv_a_layernorm": "kv_norm",
            "kv_b_proj": "kv_b",
            "o_proj": "o",
        }
        for theirs, ours in attention.items():
            out[f"{at}self_attn.{theirs}.weight"] = p[ours][i]
        out[at + "input_layernorm.weight"] = p["input_norm"][i]
        out[at + "post_attention_layernorm.weight"] = p["post_norm"][i]
        for part in ("gate", "up", "down"):
            if i == 0:
                out[f"{at}mlp.{part}_proj.weight"] = p[f"dense_{part}"]
                continue
            for e in range(s.experts):
                out[f"{at}mlp.experts.{e}.{part}_proj.weight"] = p[f"expert_{part}"][i - 1, e]
            out[f"{at}mlp.shared_experts.{part}_proj.weight"] = p[f"expert_{part}"][
                i - 1, s.experts
            ]
        if i > 0:
            out[at + "mlp.gate.weight"] = p["router"][i - 1]
    at = f"model.layers.{s.layers}."
    out[at + "embed_tokens.weight"] = p["embed"].clone()
    out[at + "shared_head.head.weight"] = p["head"].clone()
    for theirs, ours in {
        "enorm": "mtp_enorm",
        "hnorm": "mtp_hnorm",
        "eh_proj": "mtp_eh",
        "shared_head.norm": "mtp_norm",
    }.items():
        out[f"{at}{theirs}.weight"] = p[ours]
    out = {name: w.detach().cpu().to(torch.bfloat16).contiguous() for name, w in out.items()}
    for i in range(1, s.layers + 1):
        out[f"model.layers.{i}.mlp.gate.e_score_correction_bias"] = (
            bias[i - 1].detach().cpu().float().contiguous()
        )
    return out


def is_quantized(name: str) -> bool:
    """Whether DeepSeek-V3 stores this tensor as FP8."""
    return (
        name.endswith("_proj.weight")
        and "eh_proj" not in name
        or name.endswith("kv_a_proj_with_mqa.weight")
    )


def quantized(original: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The FP8 checkpoint of a BF16 original."""
    out = {}
    for name, w in original.items():
        if is_quantized(name):
            out[name], out[name + "_scale_inv"] = fp8_blocks(w)
        else:
            out[name] = w
    return out


def dequantized(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every weight as float32, from an FP8 checkpoint or a BF16 one."""
    out = {}
    for name, w in tensors.items():
        if name.endswith("_scale_inv"):
            continue
        scale = tensors.get(name + "_scale_inv")
        out[name] = w.float() if scale is None else fp8_dequantized(w, scale)
    return out


def stacked(s: Shape, f32: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """official()'s inverse on float32 weights: (parameters, bias)."""

    def attn(name):
        return torch.stack([f32[f"model.layers.{i}.{name}.weight"] for i in range(s.layers + 1)])

    p = {
        "embed": f32["model.embed_tokens.weight"],
        "head": f32["lm_head.weight"],
        "norm": f32["model.norm.weight"],
        "input_norm": attn("input_layernorm"),
        "post_norm": attn("post_attention_layernorm"),
        "q_a": attn("self_attn.q_a_proj"),
        "q_norm": attn("self_attn.q_a_layernorm"),
        "q_b": attn("self_attn.q_b_proj"),
        "kv_a": attn("self_attn.kv_a_proj_with_mqa"),
        "kv_norm": attn("self_attn.kv_a_layernorm"),
        "kv_b": attn("self_attn.kv_b_proj"),
        "o": attn("self_attn.o_proj"),
    }
    moe = range(1, s.layers + 1)
    for part in ("gate", "up", "down"):
        p[f"dense_{part}"] = f32[f"model.layers.0.mlp.{part}_proj.weight"]
        p[f"expert_{part}"] = torch.stack(
            [
                torch.stack(
                    [
                        f32[f"model.layers.{i}.mlp.experts.{e}.{part}_proj.weight"]
                        for e in range(s.experts)
                    ]
                    + [f32[f"model.layers.{i}.mlp.shared_experts.{part}_proj.weight"]]
                )
                for i in moe
            ]
        )
    p["router"] = torch.stack([f32[f"model.layers.{i}.mlp.gate.weight"] for i in moe])
    at = f"model.layers.{s.layers}."
    for theirs, ours in {
        "enorm": "mtp_enorm",
        "hnorm": "mtp_hnorm",
        "eh_proj": "mtp_eh",
        "shared_head.norm": "mtp_norm",
    }.items():
        p[ours] = f32[f"{at}{theirs}.weight"]
    bias = torch.stack([f32[f"model.layers.{i}.mlp.gate.e_score_correction_bias"] for i in moe])
    return p, bias


def layer_order(name: str):
    parts = name.split(".")
    layer = int(parts[2]) if parts[1] == "layers" else (-1 if "embed" in name else 10**6)
    return layer, name


def save(
    folder: pathlib.Path, s: Shape, tensors: dict[str, torch.Tensor], shard_bytes: int = SHARD_BYTES
) -> None:
    """Shards of at most shard_bytes, the index, config.json and generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, used = [{}], 0
    for name in sorted(tensors, key=layer_order):
        size = tensors[name].nbytes
        if used + size > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensors[name]
        used += size
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, file))
    total = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    config = config_json(s)
    if not any(n.endswith("_scale_inv") for n in tensors):
        del config["quantization_config"]
    for file, content in (
        ("model.safetensors.index.json", index),
        ("config.json", config),
        ("generation_config.json", GENERATION_CONFIG),
    ):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n")


def load(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint as stored."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    out = {}
    for file in sorted(set(index["weight_map"].values())):
        with safe_open(folder / file, "pt") as shard:
            out.update({name: shard.get_tensor(name) for name in shard.keys()})
    return out


def fingerprint(folder: pathlib.Path) -> str:
    """SHA-256 over the shards in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("model-*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
