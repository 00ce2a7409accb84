"""Attention inside windows of an image, as Swin spells it: an image of any size is cut into windows, and put back."""

import torch
import torch.nn.functional as F

SIDE, WINDOW, FEATURES = 12, 4, 64
WEIGHT = torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(0)) / FEATURES**0.5


def windows_of(x):
    b, h, w, c = x.shape
    cut = x.view(b, h // WINDOW, WINDOW, w // WINDOW, WINDOW, c)
    return cut.transpose(2, 3).contiguous().view(-1, WINDOW, WINDOW, c)


def image_of(windows, h, w):
    c = windows.shape[-1]
    cut = windows.view(-1, h // WINDOW, w // WINDOW, WINDOW, WINDOW, c)
    return cut.transpose(2, 3).contiguous().view(-1, h, w, c)


def padded(x):
    _, h, w, _ = x.shape
    return F.pad(x, (0, 0, 0, -w % WINDOW, 0, -h % WINDOW))


def attended(windows, mask=None):
    x = windows.view(-1, WINDOW * WINDOW, FEATURES)
    heads = (x @ WEIGHT.to(x.device)).view(*x.shape[:-1], -1, 16).transpose(1, 2)
    if mask is not None:
        batch = x.shape[0] // mask.shape[0]
        mask = mask[:, None][None].expand(batch, -1, -1, -1, -1)
        mask = mask.reshape(-1, 1, WINDOW * WINDOW, WINDOW * WINDOW)
    out = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
    return out.transpose(1, 2).reshape(*x.shape)


def shifted_mask(h, w, device):
    """One mask per window of an image: which positions a cyclic shift brought together."""
    rows = (torch.arange(h, device=device) >= h - 2).long()
    columns = (torch.arange(w, device=device) >= w - 2).long()
    regions = windows_of((rows[None, :, None, None] * 3 + columns[None, None, :, None]).float())
    regions = regions.view(-1, WINDOW * WINDOW)
    return (regions.unsqueeze(1) - regions.unsqueeze(2)).masked_fill(regions[:, None] != 0, -100.0)


def there_and_back(x):
    _, h, w, _ = x.shape
    return x + image_of(attended(windows_of(x)), h, w)


def twice(x):
    return there_and_back(there_and_back(x))


def of_any_size(x):
    _, h, w, _ = x.shape
    x = padded(x)
    return image_of(attended(windows_of(x)), x.shape[1], x.shape[2])[:, :h, :w]


def shifted(x):
    _, h, w, _ = x.shape
    rolled = x.roll((-2, -2), (1, 2))
    out = attended(windows_of(rolled), shifted_mask(h, w, x.device))
    return image_of(out.view(-1, WINDOW, WINDOW, FEATURES), h, w).roll((2, 2), (1, 2))
