"""The demo model for training: DeepSeek-V3's arithmetic on stacked weights, with its MTP layer.

Weights of the same shape in different layers are one tensor [layers, ...], so that the optimizer
and the FP8 rounding work on few large tensors. Every expert is computed for every token and
weighted by its route (zero for most): with 16 small experts that is one dense product. The shared
expert is the last of the stack.

Sources: DeepSeek-V3 technical report (MLA 2.1.1, routing and bias 2.1.2, MTP 2.2), YaRN (arXiv
2309.00071). """

import dataclasses
import math

import torch
import torch.nn.functional as F


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of the model; the names are those of config.json where it has them."""

    vocab: int = 4096
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    q_lora: int = 256
    kv_lora: int = 512
    nope: int = 128
    rope: int = 64
    v: int = 128
    dense_intermediate: int = 640
    moe_intermediate: int = 128
    experts: int = 16
    experts_per_token: int = 4
    groups: int = 4
    groups_per_token: int = 2
    routed_scale: float = 2.5
    eps: float = 1e-6
    theta: float = 10000.0
    yarn_factor: float = 4.0
    yarn_original: int = 1024
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0

    @property
    def max_positions(self) -> int:
        return int(self.yarn_factor * self.yarn_original)

    @property
    def softmax_scale(self) -> float:
        m = 0.1 * self.mscale * math.log(self.yarn_factor) + 1.0
        return (self.nope + self.rope) ** -0.5 * m * m


def config_json(s: Shape) -> dict:
    """config.json with the keys of DeepSeek-V3's own."""
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "ep_size": 1,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": s.hidden,
        "initializer_range": 0.02,
        "intermediate_size": s.dense_intermediate,
        "kv_lora_rank": s.kv_lora,
        "max_position_embeddings": s.max_positions,
        "model_type": "deepseek_v3",
        "moe_intermediate_size": s.moe_intermediate,
        "moe_layer_freq": 1,
        "n_group": s.groups,
        "n_routed_experts": s.experts,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": s.heads,
        "num_experts_per_tok": s.experts_per_token,
        "num_hidden_layers": s.layers,
        "num_key_value_heads": s.heads,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": s.q_lora,
        "qk_nope_head_dim": s.nope,
        "qk_rope_head_dim": s.rope,
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        },
        "rms_norm_eps": s.eps,
        "rope_scaling": {
            "beta_fast": int(s.beta_fast),
            "beta_slow": int(s.beta_slow),
            "factor": int(s.yarn_factor),
            "mscale": s.mscale,
            "mscale_all_dim": s.mscale,
            "original_max_position_embeddings": s.yarn_original,
            "type": "yarn",
        },
        "rope_theta": int(s.theta),
        "routed_scaling_factor": s.routed_scale,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": s.groups_per_token,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.33.1",
        "use_cache": True,
        "v_head_dim": s.v,
        "vocab_size": s.vocab,
    }


def parameter_shapes(s: Shape) -> dict[str, tuple[int, ...]]:
    """Name to shape; attention stacks have layers + 1 entries, expert stacks layers, the last of
    each is the MTP's."""
    n, m, e = s.layers + 1, s.layers, s.experts + 1
    return {
        "embed": (s.vocab, s.hidden),
        "head": (s.vocab, s.hidden),
        "norm": (s.hidden,),
        "input_norm": (n, s.hidden),
        "post_norm": (n, s.hidden),
        "q_a": (n, s.q_lora, s.hidden),
        "q_norm": (n, s.q_lora),
        "q_b": (n, s.heads * (s.nope + s.rope), s.q_lora),
        "kv_a": (n, s.kv_lora + s.rope, s.hidden),
        "kv_norm": (n, s.kv_lora),
        "kv_b": (n, s.heads * (s.nope + s.v), s.kv_lora),
        "o": (n, s.hidden, s.heads * s.v),
        "dense_gate": (s.dense_intermediate, s.hidden),
        "dense_up": (s.dense_intermediate, s.hidden),
        "dense_down": (s.hidden, s.dense_intermediate),
        "router": (m, s.experts, s.hidden),
        "expert_gate": (m, e, s.moe_intermediate, s.hidden),
        "expert_up": (m, e, s.moe_intermediate, s.hidden),
        "expert_down": (m, e, s.hidden, s.moe_intermediate),
        "mtp_enorm": (s.hidden,),
        "mtp_hnorm": (s.hidden,),
        "mtp_eh": (s.hidden, 2 * s.hidden),
        "mtp_norm": (s.hidden,),
    }


FP8_NAMES = [
    "q_a",
    "q_b",
    "kv_a",
    "kv_b",
    "o",
    "dense_gate",
    "dense_up",
    "dense_down",
    "expert_gate",
    "expert_up",
    "expert_down",
]


def init_parameters(s: Shape, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in parameter_shapes(s).items():
        if name.endswith("norm"):
            out[name] = torch.ones(shape)
        else:
            std = 0.02 if name == "router" else 0.6 * shape[-1] ** -0.5
            if name == "embed":
                std = 0.5
            if name in ("o", "dense_down", "expert_down"):
                std /= math.sqrt(2 * s.layers)
            out[name] = torch.randn(shape, generator=generator) * std
    return out


def fp8_blocks(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """w [..., rows, cols] as e4m3 values and scales [..., ceil(rows/128), ceil(cols/128)]; w =
    value * scale."""
    rows, cols = w.shape[-2:]
    padded = F.pad(w.float(), (0, -cols % 128, 0, -rows % 128))
    blocks = padded.unflatten(-1, (-1, 128)).unflatten(-3, (-1, 128))  # [..., R, 128, C, 128]
    scale = blocks.abs().amax(dim=(-3, -1), keepdim=True).clamp_min(1e-12) / 448.0
    values = (blocks / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
    values = values.flatten(-2, -1).flatten(-3, -2)[..., :rows, :cols]
    return values.contiguous(), scale.squeeze(-1).squeeze(-2).contiguous()


def fp8_dequantized(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float32 of fp8_blocks' pair."""
    rows, cols = values.shape[-2:]
    wide = scale.repeat_interleave(128, -2).repeat_interleave(128, -1)[..., :rows, :cols]
    return values.float() * wide


def rounded(parameters: dict[str, torch.Tensor], fp8: bool) -> dict[str, torch.Tensor]:
    """The weights a checkpoint would hold, as float32 with straight-through gradients: BF16, and
    FP8 where V3 has it."""
    out = {}
    for name, w in parameters.items():
        r = w.detach().bfloat16()
        if fp8 and name in FP8_NAMES:
            r = fp8_dequantized(*fp8_blocks(r))
        out[name] = w + (r.float() - w.detach())
    return out


def yarn_inv_freq(s: Shape) -> torch.Tensor:
    """[rope / 2] float32: each frequency divided by the factor, kept, or between (YaRN, 3.2)."""

    def correction(rotations: float) -> float:
        return (
            s.rope * math.log(s.yarn_original / (rotations * 2 * math.pi)) / (2 * math.log(s.theta))
        )

    low = max(math.floor(correction(s.beta_fast)), 0)
    high = min(math.ceil(correction(s.beta_slow)), s.rope - 1)
    i = torch.arange(s.rope // 2, dtype=torch.float32)
    freq = s.theta ** (-2 * i / s.rope)
    keep = 1 - ((i - low) / max(high - low, 0.001)).clamp(0, 1)
    return freq / s.yarn_factor * (1 - keep) + freq * keep


def rope_table(s: Shape, device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, [max_positions, rope / 2] float32."""
    angles = torch.arange(s.max_positions, dtype=torch.float32)[:, None] * yarn_inv_freq(s)[None, :]
    return angles.cos().to(device), angles.sin().to(device)


def rms(x: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w.float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Interleaved pairs of x [tokens, heads, rope] turned by the angles [tokens, rope / 2]."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    c, n = cos[:, None, :], sin[:, None, :]
    return torch.stack((a * c - b * n, b * c + a * n), -1).flatten(-2).to(x.dtype)


def attention_inputs(
    s: Shape, x, cos, sin, norm, q_a, q_norm, q_b, kv_a, kv_norm, kv_b, pad_v: bool
):
    """x [tokens, hidden] to q, k [tokens, heads, nope + rope] and v [tokens, heads, v, zero-padded
    if pad_v]."""
    dtype = q_a.dtype
    h = rms(x, norm, s.eps).to(dtype)
    q = (rms(h @ q_a.T, q_norm, s.eps).to(dtype) @ q_b.T).unflatten(-1, (s.heads, -1))
    latent, k_rope = (h @ kv_a.T).split([s.kv_lora, s.rope], -1)
    kv = (rms(latent, kv_norm, s.eps).to(dtype) @ kv_b.T).unflatten(-1, (s.heads, -1))
    q = torch.cat((q[..., : s.nope], rotate(q[..., s.nope :], cos, sin)), -1)
    k_rope = rotate(k_rope[:, None, :], cos, sin).expand(-1, s.heads, -1)
    k = torch.cat((kv[..., : s.nope], k_rope), -1)
    v = kv[..., s.nope :]
    if pad_v:
        v = F.pad(v, (0, s.nope + s.rope - s.v))
    return q, k, v.contiguous()


def attend(s: Shape, q, k, v, length: int):
    """Causal attention inside rows of `length` tokens; [tokens, heads * v]."""
    q, k, v = (t.view(-1, length, s.heads, t.shape[-1]).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=s.softmax_scale)
    return out[..., : s.v].transpose(1, 2).reshape(-1, s.heads * s.v)


def ranks(x: torch.Tensor) -> torch.Tensor:
    """How many entries of the last axis come before each (larger, or equal with a smaller
    index)."""
    a, b = x[..., :, None], x[..., None, :]
    index = torch.arange(x.shape[-1], device=x.device)
    return ((b > a) | ((b == a) & (index[None, :] < index[:, None]))).sum(-1)


def route(s: Shape, h, router, bias):
    """Weights [tokens, experts] (zero where not chosen), float32. DeepSeek-V3 report, 2.1.2."""
    scores = torch.sigmoid(h.float() @ router.float().T)
    choice = (scores + bias).unflatten(-1, (s.groups, -1))  # [tokens, groups, experts / groups]
    best_two = torch.where(ranks(choice) < 2, choice, 0.0).sum(-1)
    open_group = ranks(best_two) < s.groups_per_token
    choice = choice.masked_fill(~open_group[..., None], float("-inf")).flatten(-2)
    chosen = ranks(choice) < s.experts_per_token
    weights = torch.where(chosen, scores, 0.0)
    return weights / (weights.sum(-1, keepdim=True) + 1e-20) * s.routed_scale, chosen


def after_attention_moe(s: Shape, x, attended, valid, o, norm, router, bias, gate, up, down):
    """Output projection and experts. Returns x [tokens, hidden] and each expert's count of valid
    tokens."""
    dtype = o.dtype
    x = x + (attended @ o.T).float()
    normed = rms(x, norm, s.eps)
    weights, chosen = route(s, normed, router, bias)
    h = normed.to(dtype)
    a = F.silu(h @ gate.flatten(0, 1).T) * (
        h @ up.flatten(0, 1).T
    )  # [tokens, (experts + 1) * moe_intermediate]
    weights = F.pad(weights, (0, 1), value=1.0)
    a = (a.unflatten(-1, (s.experts + 1, -1)) * weights[..., None]).flatten(-2).to(dtype)
    x = x + (a @ down.transpose(1, 2).flatten(0, 1)).float()
    return x, (chosen & valid[:, None]).sum(0)


def after_attention_dense(s: Shape, x, attended, o, norm, gate, up, down):
    dtype = o.dtype
    x = x + (attended @ o.T).float()
    h = rms(x, norm, s.eps).to(dtype)
    return x + ((F.silu(h @ gate.T) * (h @ up.T)) @ down.T).float()


def token_losses(h, head, targets):
    """Cross-entropy of each token, [tokens] float32, and whether the target is the argmax."""
    logits = (h @ head.T).float()
    picked = logits.gather(-1, targets[:, None]).squeeze(-1)
    return torch.logsumexp(logits, -1) - picked, picked >= logits.amax(-1)


class Demo:
    """Functions of weights: forward passes of a batch of rows of equal length. Not a module; holds
    no weights."""

    def __init__(self, shape: Shape, device, compiled: bool = False):
        self.shape = shape
        self.pad_v = device.type == "cuda"
        self.cos, self.sin = rope_table(shape, device)
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        s, pad_v = shape, self.pad_v
        self.attention_inputs = wrap(lambda *a: attention_inputs(s, *a, pad_v))
        self.moe = wrap(lambda *a: after_attention_moe(s, *a))
        self.dense = wrap(lambda *a: after_attention_dense(s, *a))
        self.losses = wrap(token_losses)

    def layer(self, w, i: int, x, valid, cos, sin, bias, length):
        s = self.shape
        q, k, v = self.attention_inputs(
            x,
            cos,
            sin,
            w["input_norm"][i],
            w["q_a"][i],
            w["q_norm"][i],
            w["q_b"][i],
            w["kv_a"][i],
            w["kv_norm"][i],
            w["kv_b"][i],
        )
        attended = attend(s, q, k, v, length)
        if i == 0:
            return (
                self.dense(
                    x,
                    attended,
                    w["o"][i],
                    w["post_norm"][i],
                    w["dense_gate"],
                    w["dense_up"],
                    w["dense_down"],
                ),
                None,
            )
        j = i - 1
        return self.moe(
            x,
            attended,
            valid,
            w["o"][i],
            w["post_norm"][i],
            w["router"][j],
            bias[j],
            w["expert_gate"][j],
            w["expert_up"][j],
            w["expert_down"][j],
        )

    def angles(self, rows: int, length: int):
        return self.cos[:length].repeat(rows, 1), self.sin[:length].repeat(rows, 1)

    def hidden(self, w, bias, tokens):
        """tokens [rows, length] to the main model's hidden states after the final norm, [tokens,
        hidden], and counts."""
        rows, length = tokens.shape
        flat = tokens.reshape(-1)
        cos, sin = self.angles(rows, length)
        valid = flat != 2
        x = F.embedding(flat, w["embed"]).float()
        counts = []
        for i in range(self.shape.layers):
            x, count = self.layer(w, i, x, valid, cos, sin, bias, length)
            if count is not None:
                counts.append(count)
        return rms(x, w["norm"], self.shape.eps), counts

    def mtp_hidden(self, w, bias, tokens, hidden):
        """The MTP layer at every position t from hidden_t and token t+1: states whose logits
        predict token t+2."""
        rows, length = tokens.shape
        following = torch.roll(tokens, -1, 1).reshape(-1)
        cos, sin = self.angles(rows, length)
        embedded = rms(F.embedding(following, w["embed"]), w["mtp_enorm"], self.shape.eps)
        joined = torch.cat((embedded, rms(hidden, w["mtp_hnorm"], self.shape.eps)), -1).to(
            w["mtp_eh"].dtype
        )
        x = (joined @ w["mtp_eh"].T).float()
        x, count = self.layer(w, self.shape.layers, x, following != 2, cos, sin, bias, length)
        return rms(x, w["mtp_norm"], self.shape.eps), count
