"""transformers' DeepseekV3ForCausalLM on a demo checkpoint in float32, with a record of its routing
margins."""

import json
import pathlib

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

import checkpoint


def config_of(folder: pathlib.Path) -> DeepseekV3Config:
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    config.pop("torch_dtype")
    return DeepseekV3Config(**config)


def transformers_model(folder: pathlib.Path) -> DeepseekV3ForCausalLM:
    """The checkpoint's main model, FP8 weights dequantized, float32, eager attention and
    experts."""
    config = config_of(folder)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    weights = checkpoint.dequantized(checkpoint.load(folder))
    state = {}
    for name, w in weights.items():
        if name.startswith(f"model.layers.{config.num_hidden_layers}.") or ".experts." in name:
            continue
        state[name] = w
    for i in range(config.first_k_dense_replace, config.num_hidden_layers):
        at = f"model.layers.{i}.mlp.experts."
        experts = range(config.n_routed_experts)
        state[at + "gate_up_proj"] = torch.stack(
            [
                torch.cat(
                    (weights[f"{at}{e}.gate_proj.weight"], weights[f"{at}{e}.up_proj.weight"])
                )
                for e in experts
            ]
        )
        state[at + "down_proj"] = torch.stack(
            [weights[f"{at}{e}.down_proj.weight"] for e in experts]
        )
    model = DeepseekV3ForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise SystemExit(
            f"state of transformers' model: missing {missing}, unexpected {unexpected}"
        )
    return model


class RoutingMargins:
    """While attached, keeps for every token the smallest gap over layers between what was chosen
    and what was not: between the k-th and the next expert of the open groups, and between the last
    open group and the next. """

    def __init__(self, model):
        self.config = model.config
        self.gaps = None
        self.handles = [
            layer.mlp.gate.register_forward_hook(self.record)
            for layer in model.model.layers
            if hasattr(layer.mlp, "gate")
        ]

    def record(self, gate, _inputs, output):
        c = self.config
        choice = (output[0].sigmoid() + gate.e_score_correction_bias).unflatten(-1, (c.n_group, -1))
        best_two = choice.topk(2, -1)[0].sum(-1)
        groups = best_two.sort(-1, descending=True)[0]
        gap = groups[:, c.topk_group - 1] - groups[:, c.topk_group]
        is_open = torch.zeros_like(best_two, dtype=torch.bool)
        is_open.scatter_(1, best_two.topk(c.topk_group, -1)[1], True)
        flat = (
            choice.masked_fill(~is_open[..., None], float("-inf"))
            .flatten(-2)
            .sort(-1, descending=True)[0]
        )
        gap = torch.minimum(
            gap, flat[:, c.num_experts_per_tok - 1] - flat[:, c.num_experts_per_tok]
        )
        self.gaps = gap if self.gaps is None else torch.minimum(self.gaps, gap)

    def take(self) -> torch.Tensor:
        """The gaps of the forward pass just made, [tokens], and a clean record for the next."""
        gaps, self.gaps = self.gaps, None
        return gaps

    def detach(self):
        for handle in self.handles:
            handle.remove()
