"""The page of a report: one file that loads nothing, with all of the report inside."""

import json
import re

import pytest
import torch

from bi_inductor.inspection.nodes import VERDICTS
from bi_inductor.inspection.page import page, page_data
from tests.inspection.reports import bad_report, deep_report


@pytest.fixture(scope="module")
def bad():
    return bad_report()


def embedded(html):
    text = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)
    return json.loads(text.group(1))


def test_the_page_loads_nothing(bad, tmp_path):
    html = bad.html(tmp_path / "page.html").read_text()
    assert "default-src 'none'" in html
    assert not re.search(r"(src|href)\s*=|@import|url\(|fetch\(|XMLHttpRequest|import\(", html)
    assert "/*" not in re.sub(r"<(style|script)[^>]*>.*?</\1>", "", html, flags=re.S)


def test_the_page_holds_the_whole_report(bad):
    data = embedded(page(bad))
    assert data["ok"] is False
    for graph, shown in zip(bad.graphs, data["graphs"], strict=True):
        rows = [dict(zip(data["fields"], row, strict=True)) for row in shown["nodes"]]
        text = data["strings"]
        for node, row in zip(graph.nodes, rows, strict=True):
            assert text[row["op"]] == node.op
            assert VERDICTS[row["verdict"]] == node.verdict
            assert text[row["reason"]] == node.reason
            assert text[row["code"]] == node.code
            assert [text[i] for i in row["after"]] == list(node.after)
            names = [text[rows[i]["name"]] if isinstance(i, int) else i for i in row["inputs"]]
            assert names == list(node.inputs)


def test_source_code_cannot_end_the_script():
    def tricky(x):
        return x + len("</script><script>alert(1)</script>")

    import bi_inductor

    with torch.no_grad():
        html = page(bi_inductor.explain(tricky, torch.zeros(4, 16)))
    assert html.count("</script>") == 2
    assert any("</script><script>alert(1)" in text for text in embedded(html)["strings"])


def test_thousands_of_nodes_stay_small():
    report = deep_report(60)
    nodes = sum(len(g.nodes) for g in report.graphs)
    assert nodes > 2000
    assert len(json.dumps(page_data(report))) < 300 * nodes
