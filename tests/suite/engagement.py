"""Whether a test that found equal bits really ran the templates."""

import bi_inductor


def templates_ran() -> None:
    """Fail unless graphs were compiled since the last reset, each with a planned op, and none was refused."""
    certificate = bi_inductor.certificate()
    assert certificate.graphs
    assert certificate.is_invariant
    assert all("planned" in graph.plan for graph in certificate.graphs), "no template ran"
