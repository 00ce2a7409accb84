"""topk: a stable sort, cut. Exact, so its order needs no kernel of ours."""

import torch
from torch import Tensor


def topk(x: Tensor, k: int, dim: int, largest: bool, sorted: bool) -> tuple[Tensor, Tensor]:
    """Return the k largest or smallest along ``dim`` with their places; on a tie the lower index wins."""
    if x.dim() == 0:
        return x.clone(), torch.zeros((), dtype=torch.int64, device=x.device)
    values, places = torch.sort(x, dim=dim, descending=largest, stable=True)
    return values.narrow(dim, 0, k).contiguous(), places.narrow(dim, 0, k).contiguous()
