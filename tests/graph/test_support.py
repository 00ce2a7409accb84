"""The README's support matrix is the lowering table."""

from pathlib import Path

from lowerings.support import support_matrix


def test_the_readme_shows_the_lowering_table():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert support_matrix() in readme, (
        "paste the output of `python -m lowerings.support` into README.md"
    )
    assert len(readme.splitlines()) <= 150
