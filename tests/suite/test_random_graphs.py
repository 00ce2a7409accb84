"""Random graphs, compiled: every row of a batch has the bits of its sample alone.

A bundle of graphs is one compilation. A failure is shrunk to the shortest bundle, and kept here with ``@example``.
"""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.rows import bits_equal
from tests.suite.random_graphs import graphs, laid_out, run, samples_of

#: 11 x 20 graphs in `make test` (the first bundle is trivial), 500 x 20 in `make test-all`
BUNDLE, BUNDLES, MANY_BUNDLES = 20, 11, 500
BATCH = 5

bundles = st.lists(graphs, min_size=BUNDLE, max_size=BUNDLE)


def graphs_that_change(bundle, backend="batch_invariant"):
    torch.compiler.reset()

    def together(*inputs):
        return [run(graph, x) for graph, x in zip(bundle, inputs, strict=True)]

    fn = torch.compile(together, backend=backend, dynamic=False)
    samples = [samples_of(graph, BATCH, seed=i) for i, graph in enumerate(bundle)]
    with torch.no_grad():

        def call(rows):
            return fn(*(laid_out(g, x[rows].clone()) for g, x in zip(bundle, samples, strict=True)))

        batched = call(list(range(BATCH)))
        alone = [call([row]) for row in range(BATCH)]
    return [
        graph
        for i, graph in enumerate(bundle)
        if any(not bits_equal(batched[i][r : r + 1], alone[r][i]) for r in range(BATCH))
    ]


@pytest.mark.thorough  # 220 graphs take more than ten minutes on two cores
@settings(
    max_examples=BUNDLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
)  # fmt: skip
@given(bundles)
def test_random_graphs_do_not_follow_the_batch(bundle):
    assert graphs_that_change(bundle) == []


def test_stock_torch_fails_on_random_graphs():
    bundle = [
        ((1, 70), "float32", "contiguous", (("layer_norm", 0), ("linear", 7))),
        ((19, 64), "float32", "contiguous", (("linear", 7), ("sum_all", 0))),
        ((5, 50), "float32", "transposed", (("silu", 0), ("var", 1))),
    ]
    assert graphs_that_change(bundle, backend="inductor"), "control too weak"


@pytest.mark.thorough
@settings(max_examples=MANY_BUNDLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(graphs, min_size=1, max_size=BUNDLE))
def test_ten_thousand_random_graphs(bundle):
    assert graphs_that_change(bundle) == []
