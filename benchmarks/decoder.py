"""A decoder with the shape of Qwen3-8B, four layers deep, and a static cache: plain PyTorch, random weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

#: not a batch dim: one row of positions for all samples
OPTIONS = {"batch_dims": {"positions": None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a decoder; the defaults are Qwen3-8B's with four layers."""

    layers: int = 4
    hidden: int = 4096
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    inner: int = 12288
    vocab: int = 151936


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        s, linear = shape, lambda i, o: nn.Linear(i, o, bias=False)
        self.q, self.o = (
            linear(s.hidden, s.heads * s.head_dim),
            linear(s.heads * s.head_dim, s.hidden),
        )
        self.k, self.v = (linear(s.hidden, s.kv_heads * s.head_dim) for _ in range(2))
        self.gate, self.up = (linear(s.hidden, s.inner) for _ in range(2))
        self.down = linear(s.inner, s.hidden)
        self.before, self.after = (nn.RMSNorm(s.hidden, 1e-6) for _ in range(2))
        self.q_norm, self.k_norm = (nn.RMSNorm(s.head_dim, 1e-6) for _ in range(2))

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], positions: Tensor, mask: Tensor,
        keys: Tensor, values: Tensor,
    ) -> Tensor:  # fmt: skip
        s, y = self.shape, self.before(x)
        q = self.q_norm(self.q(y).unflatten(-1, (s.heads, s.head_dim))).transpose(1, 2)
        k = self.k_norm(self.k(y).unflatten(-1, (s.kv_heads, s.head_dim))).transpose(1, 2)
        v = self.v(y).unflatten(-1, (s.kv_heads, s.head_dim)).transpose(1, 2)
        keys.index_copy_(2, positions, _turned(k, turn))
        values.index_copy_(2, positions, v)
        out = functional.scaled_dot_product_attention(
            _turned(q, turn), keys, values, attn_mask=mask, enable_gqa=True
        )
        x = x + self.o(out.transpose(1, 2).flatten(2))
        y = self.after(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """``ids [B, T]`` at ``positions [T]`` with ``cache``, two tensors ``[B, Hk, L, D]`` a layer -> logits [B, n, V]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, 1e-6)
        self.head = nn.Linear(shape.hidden, shape.vocab, bias=False)

    def forward(self, ids: Tensor, positions: Tensor, cache: list[Tensor], last: int = 0) -> Tensor:
        """Logits of the last ``last`` tokens, of all when it is 0."""
        x = self.embed(ids)
        half = self.shape.head_dim // 2
        rates = 1e6 ** (-torch.arange(half, device=ids.device, dtype=torch.float32) / half)
        angles = (positions[:, None] * rates).repeat(1, 2)
        turn = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
        mask = torch.arange(cache[0].shape[2], device=ids.device) <= positions[:, None]
        for i, layer in enumerate(self.layers):
            x = layer(x, turn, positions, mask[None, None], cache[2 * i], cache[2 * i + 1])
        return self.head(self.norm(x[:, -last:]))


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    low, high = x.chunk(2, -1)
    return x * turn[0] + torch.cat((-high, low), -1) * turn[1]


def make_decoder(shape: Shape, dtype: torch.dtype, device: str) -> Decoder:
    """A decoder in eval mode with normal weights of a deviation that keeps activations near 1."""
    torch.manual_seed(0)
    with torch.device(device):
        model = Decoder(shape).to(dtype).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            weight.normal_(std=1 if name.startswith("embed") else weight.shape[1] ** -0.5)
    return model


def make_cache(
    shape: Shape, batch: int, length: int, dtype: torch.dtype, device: str
) -> list[Tensor]:
    """An empty cache whose address stays fixed, as CUDA graphs want it."""
    cache = [
        torch.zeros(batch, shape.kv_heads, length, shape.head_dim, dtype=dtype, device=device)
        for _ in range(2 * shape.layers)
    ]
    for tensor in cache:
        torch._dynamo.mark_static_address(tensor)  # noqa: TID251  (no public spelling)
    return cache
