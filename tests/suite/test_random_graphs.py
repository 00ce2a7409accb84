"""Random graphs, compiled: every row of a batch has the bits of its sample alone.

A bundle of graphs is one compilation: alone each would take seconds. A graph that fails, by its bits or by an error, is
shrunk; what the failure names goes into ``KEPT``, with which every run begins.
"""

import functools

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bi_inductor.testing import Cell, Report
from bi_inductor.testing.plugin import note
from tests.rows import bits_equal
from tests.suite.random_graphs import graphs, laid_out, run, samples_of, smaller

pytestmark = pytest.mark.usefixtures("one_library")

#: 10 x 20 graphs in `make test`, 500 x 20 in `make test-all`
BUNDLE, BUNDLES, MANY_BUNDLES = 20, 10, 500
BATCH = 5

#: graphs that once failed
KEPT = [((1, 1), "float16", "offset", (("linear", 1),))]


def bundle_of(number):
    """The bundle that belongs to a seed; hypothesis' first example is trivial, so it is the second."""
    found = []

    @seed(number)
    @settings(
        max_examples=2, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )  # fmt: skip
    @given(st.lists(graphs, min_size=BUNDLE, max_size=BUNDLE))
    def collect(bundle):
        found.append(bundle)

    collect()
    return found[1]


def graphs_that_change(bundle, device, backend="batch_invariant"):
    torch.compiler.reset()

    def together(*inputs):
        return [run(graph, x) for graph, x in zip(bundle, inputs, strict=True)]

    fn = torch.compile(together, backend=backend, dynamic=False)
    samples = [samples_of(graph, BATCH, i, device) for i, graph in enumerate(bundle)]

    def call(rows):
        with torch.no_grad():
            return fn(*(laid_out(g, x[rows].clone()) for g, x in zip(bundle, samples, strict=True)))

    batched = call(list(range(BATCH)))
    alone = [call([row]) for row in range(BATCH)]
    return [
        graph
        for i, graph in enumerate(bundle)
        if any(not bits_equal(batched[i][r : r + 1], alone[r][i]) for r in range(BATCH))
    ]


def graphs_that_fail(bundle, device, backend="batch_invariant"):
    """Graphs whose rows change, or whose compilation or run is an error: found by halves."""
    try:
        return graphs_that_change(bundle, device, backend)
    except Exception:
        if len(bundle) == 1:
            return list(bundle)
    half = len(bundle) // 2
    return [
        graph
        for part in (bundle[:half], bundle[half:])
        for graph in graphs_that_fail(part, device, backend)
    ]


def shrunk(graph, fails):
    """The simplest graph that still fails, found greedily; a compilation for each try."""
    for candidate in smaller(graph):
        if fails([candidate]):
            return shrunk(candidate, fails)
    return graph


def check(bundle, device, record_property):
    if failed := graphs_that_fail(bundle, device):
        # kept even if there is no time to shrink them
        record_property("graphs", repr(failed))
        fails = functools.partial(graphs_that_fail, device=device)
        small = [shrunk(graph, fails) for graph in failed]
        raise AssertionError(f"bits follow the batch; cure them and add them to KEPT: {small}")


def counted(request, device, count):
    """A line of the final table."""
    cell = Cell(axis="batch", dtype="mixed", device=device, compared=count * BATCH)
    note(request.node, Report(backend="batch_invariant", seed=0, cells=(cell,)))


@pytest.mark.parametrize("number", range(BUNDLES))
def test_random_graphs_do_not_follow_the_batch(number, request, device, record_property):
    bundle = bundle_of(number)
    assert len(set(bundle)) > BUNDLE // 2, "control: the graphs differ"
    check(bundle if number else [*KEPT, *bundle], device, record_property)
    counted(request, device, len(bundle))


def test_stock_torch_fails_on_random_graphs_and_the_failure_is_shrunk(device):
    bundle = [
        ((1, 70), "float32", "contiguous", (("layer_norm", 0), ("linear", 7))),
        ((19, 64), "float32", "contiguous", (("linear", 7), ("sum_all", 0))),
        ((5, 50), "float32", "transposed", (("silu", 0), ("var", 1))),
    ]
    fails = functools.partial(graphs_that_change, device=device, backend="inductor")
    failed = fails(bundle)
    assert failed, "control too weak"
    small = shrunk(failed[0], fails)
    assert fails([small])
    assert not any(fails([graph]) for graph in smaller(small))


@pytest.mark.thorough
@pytest.mark.parametrize("number", range(BUNDLES, MANY_BUNDLES))
def test_ten_thousand_random_graphs(number, request, device, record_property):
    bundle = bundle_of(number)
    check(bundle, device, record_property)
    counted(request, device, len(bundle))
