"""The page in real headless Chromium: ``make test-page``. Screenshots stay in the given folder.

Not collected by pytest: it wants a browser, which is no part of the environment of ``make test``.
"""

import argparse
import html
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.inspection.reports import bad_report, deep_report

#: name -> (report, address, what the drawn document must hold)
VIEWS = {
    "overview": ("deep", "", ("batch-invariant on cpu", "Symbolic sizes", "layers", "embed")),
    "module": (
        "deep",
        "module=layers.3.mlp&node=addmm_2_3",
        (["layers", "3", "mlp"][2], "split_size", "bi_inductor.mm.default"),
    ),
    "list": ("deep", "view=list&q=layers.17+planned", ("layers.17",)),
    "code": (
        "deep",
        "view=code&module=layers.29",
        ("before: ATen", "bi_inductor.attention.default"),
    ),
    "problems": (
        "bad",
        "view=list&off=0,1&theme=dark",
        ("follows the batch on neuron", "ends early"),
    ),
    "problem": ("bad", "node=amax&theme=dark", ("reduces over the batch", "keep the batch")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--browser", default=None)
    given = parser.parse_args()
    browser = given.browser or shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no chromium on PATH: install Debian's package `chromium`, or pass --browser")
    out = given.out or Path(tempfile.mkdtemp(prefix="bi_inductor-page-"))
    out.mkdir(parents=True, exist_ok=True)
    pages = {
        "deep": deep_report(60).html(out / "deep.html"),
        "bad": bad_report().html(out / "bad.html"),
    }
    for name, (report, address, wanted) in VIEWS.items():
        check(browser, f"file://{pages[report].resolve()}#{address}", out / f"{name}.png", wanted)
        print(f"ok  {name}: {out / f'{name}.png'}")
    measure(browser, pages["deep"], out)


def check(browser: str, url: str, picture: Path, wanted: tuple[str, ...]) -> None:
    """Draw ``url`` once as text and once as a picture."""
    text = html.unescape(chromium(browser, "--dump-dom", url))
    drawn = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert 'data-ready="yes"' in drawn, f"{url}: the script did not finish"
    for words in wanted:
        assert words in drawn, f"{url}: {words!r} is not on the page"
    rows = len(re.findall(r'class="row ', drawn))
    assert rows < 200, f"{url}: {rows} rows in the document, of which a window shows 40"
    chromium(browser, f"--screenshot={picture}", url)
    assert picture.stat().st_size > 10_000


def measure(browser: str, page: Path, out: Path) -> None:
    """Time what a user does, inside the page: every step is one redraw."""
    steps = (
        "view=list",
        "view=list&q=attention",
        "view=code",
        "module=layers.7",
        "module=layers.7.attention",
        "view=list&node=addmm_2_40",
    )
    # at once, without waiting: the browser's clock is a virtual one while it waits
    probe = f"""<script>
    const said = {list(steps)!r}.map((step) => {{
      const start = performance.now();
      history.replaceState(null, "", "#" + step);
      dispatchEvent(new HashChangeEvent("hashchange"));
      document.getElementById("stage").getBoundingClientRect();
      return Math.ceil(performance.now() - start);
    }});
    document.title = "ms " + said.join(" ");
    </script>"""
    timed = out / "timed.html"
    text = page.read_text()
    timed.write_text(text.replace("</body>", f"{probe}</body>"))
    start = time.perf_counter()
    drawn = chromium(browser, "--dump-dom", f"file://{timed.resolve()}")
    found = re.search(r"<title>ms ([\d ]+)</title>", drawn)
    assert found, "the probe did not finish"
    taken = [int(ms) for ms in found.group(1).split()]
    print(f"ok  steps took {taken} ms, the browser {time.perf_counter() - start:.1f} s")
    assert max(taken) < 300, f"slow: {dict(zip(steps, taken, strict=True))}"


def chromium(browser: str, *args: str) -> str:
    done = subprocess.run(
        [
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--window-size=1500,950", "--virtual-time-budget=4000", *args),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    main()
