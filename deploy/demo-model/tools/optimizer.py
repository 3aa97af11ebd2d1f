"""Muon for stacks of matrices: momentum, then the nearest orthogonal matrix by Newton-Schulz steps.

Source: K. Jordan et al., Muon, 2024; the scale 0.2 * sqrt(max(rows, cols)) gives the update AdamW's
size (Moonlight report, arXiv 2502.16982). """

import torch


def orthogonal(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """g [..., rows, cols] with its singular values brought near one; computed in bfloat16."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.mT if tall else x


class Muon:
    def __init__(self, tensors: list[torch.Tensor], momentum: float = 0.95, decay: float = 0.1):
        self.tensors, self.momentum, self.decay = tensors, momentum, decay
        self.moments = [torch.zeros_like(t) for t in tensors]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for w, m in zip(self.tensors, self.moments):
            m.lerp_(w.grad, 1 - self.momentum)
            update = orthogonal(w.grad.lerp(m, self.momentum))
            scale = 0.2 * max(w.shape[-2:]) ** 0.5
            w.mul_(1 - rate * self.decay).add_(update.float(), alpha=-rate * scale)
