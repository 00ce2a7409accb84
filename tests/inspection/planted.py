"""Random graphs with faults at known nodes: everything else in them is exact, so nothing else may be blamed."""

import random

import torch
from torch import Tensor, nn


@torch.library.custom_op("bi_test::planted", mutates_args=())
def planted(x: Tensor, batch: int) -> Tensor:
    """Move the last bit of one value per sample when ``batch`` is above 1, and only then."""
    out = x.clone()
    if batch > 1:
        last = out.view(batch, -1)[:, -1]
        last.copy_(torch.nextafter(last, torch.full_like(last, 1e30)))
    return out


@planted.register_fake
def _(x: Tensor, batch: int) -> Tensor:
    return torch.empty_like(x)


class Graph(nn.Module):
    """``length`` random steps on [batch, 4, 8]; ``faults`` of them are planted."""

    def __init__(self, seed: int, length: int = 12, faults: int = 2) -> None:
        super().__init__()
        chosen = random.Random(seed)
        self.steps = [chosen.choice(STEPS) for _ in range(length)]
        self.faults = sorted(chosen.sample(range(length), faults))
        self.other = [chosen.randrange(i + 1) for i in range(length)]

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for i, step in enumerate(self.steps):
            if i in self.faults:
                made.append(planted(made[-1].contiguous(), x.shape[0]))
            else:
                made.append(step(made[-1], made[self.other[i]]))
        return made[-1]


def add(x, y):
    return x + y.abs()


def merged(x, y):
    return (x.reshape(-1, 8) * 0.5 + 1).relu().view(x.shape)


def transposed(x, y):
    return torch.maximum(x.transpose(0, 1), y.transpose(1, 0)).permute(1, 0, 2)


def halves(x, y):
    a, b = x.chunk(2, -1)
    return torch.cat([b - y[..., :4], a.neg()], -1)


def heads(x, y):
    return (
        (x.view(-1, 4, 2, 4).transpose(1, 2).reshape(-1, 4, 4) + 1)
        .view(-1, 2, 4, 4)
        .mT.reshape(x.shape)
    )


def written(x, y):
    out = x.clone()
    out[:, 1] = y[:, 2]
    out.add_(1)
    return out


STEPS = (add, merged, transposed, halves, heads, written)
