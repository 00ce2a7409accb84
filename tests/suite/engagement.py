"""Whether a test that found equal bits really ran the templates."""

import bi_inductor


def templates_ran(*, every_graph: bool = True) -> None:
    """Fail unless graphs were compiled since the last reset with planned ops, and none was refused.

    ``every_graph``: each has one, and there are no graph breaks; else the eager mode computes between the graphs.
    """
    certificate = bi_inductor.certificate()
    assert certificate.graphs
    assert certificate.is_invariant or not every_graph
    assert not any(graph.variants for graph in certificate.graphs)
    planned = ["planned" in graph.plan for graph in certificate.graphs]
    assert all(planned) if every_graph else any(planned), "no template ran"
