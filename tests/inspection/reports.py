"""Reports for the tests of the page: one with every kind of trouble, one with thousands of nodes."""

import dataclasses
import functools

import torch
import torch.nn.functional as F
from torch import nn

import bi_inductor


class Attention(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.norm, self.qkv, self.out = (
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.norm, self.up, self.down = (
            nn.RMSNorm(width),
            nn.Linear(width, 32),
            nn.Linear(32, width),
        )

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.mlp = Attention(), Mlp()

    def forward(self, x):
        return self.mlp(self.attention(x))


class Decoder(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.embed, self.layers = nn.Embedding(32, 16), nn.ModuleList(Layer() for _ in range(depth))
        self.head = nn.Linear(16, 32)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Troubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder, self.bn = Decoder(2), nn.BatchNorm1d(32)

    def forward(self, ids):
        x = self.decoder(ids)
        x = x / x.abs().amax()
        print("a side effect")
        return self.bn(x.mean(1)).sort(-1).values


@functools.cache
def bad_report():
    """Coupled, unsupported and broken graphs, planned for a device that is not here."""
    with torch.no_grad():
        return bi_inductor.explain(Troubled(), torch.zeros(3, 5, dtype=torch.long), device="neuron")


@functools.cache
def deep_report(depth):
    """A decoder of ``depth`` layers: one traced layer, repeated as data."""
    with torch.no_grad():
        report = bi_inductor.explain(Decoder(1), torch.zeros(3, 5, dtype=torch.long))
    (graph,) = report.graphs
    layer = [n for n in graph.nodes if n.module.startswith("layers.0")]
    first = graph.nodes.index(layer[0])
    names = {node.name for node in layer}
    nodes = [*graph.nodes[:first]]
    for i in range(depth):
        nodes += [_renamed(n, i, names, layer[-1].name) for n in layer]
    rest = [n for n in graph.nodes[first:] if n not in layer]
    last = {name: f"{name}_{depth - 1}" for name in names}
    nodes += [
        dataclasses.replace(n, inputs=tuple(last.get(name, name) for name in n.inputs))
        for n in rest
    ]
    return dataclasses.replace(report, graphs=(dataclasses.replace(graph, nodes=tuple(nodes)),))


def _renamed(node, i, inside, last):
    """The node in layer ``i``; what came from before the first layer comes from the layer before."""

    def source(name):
        if name in inside:
            return f"{name}_{i}"
        return f"{last}_{i - 1}" if i and name == "embedding" else name

    return dataclasses.replace(
        node,
        name=f"{node.name}_{i}",
        module=node.module.replace("layers.0", f"layers.{i}"),
        inputs=tuple(map(source, node.inputs)),
    )
