"""Another process, another clone, another machine of one kind: the same bits."""

import json

from tests.suite import hashes
from tests.suite.processes import run


def test_another_process_gives_the_same_bits_and_so_does_the_kept_table(device, one_library):
    """The other process builds a library for each kernel, as users have it."""
    here = hashes.hashes(device)
    there = run(
        f"import json\nfrom tests.suite.hashes import hashes\nprint(json.dumps(hashes({device!r})))",
        OMP_NUM_THREADS="1",
    )
    assert json.loads(there.splitlines()[-1]) == here
    kept = json.loads(hashes.FILE.read_text())
    if (machine := hashes.machine(device)) in kept:
        assert kept[machine] == here, (
            "bits changed since the table was kept: a schedule must not do that; if a plan was changed on "
            "purpose, run python -m tests.suite.hashes --write"
        )
