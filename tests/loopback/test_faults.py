"""Random faults between client, link and worker: nothing is lost, nothing doubled."""

import random
from pathlib import Path

import pytest

from tests.helpers.sshd import needs_sshd
from tests.loopback import faults

KINDS = (
    "client killed", "worker killed", "half a line", "session killed", "connection reset",
    "clock jumped", "disk full",
)  # fmt: skip
"""All but the frozen link, which takes half a minute: it has tests of its own."""


@needs_sshd
def test_twenty_random_faults_cost_no_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(2**32)
    with capsys.disabled():
        print(f"\n[seed {seed}: python -m tests.loopback.faults --seed {seed}]", flush=True)
    done = faults.run(tmp_path, faults=20, seed=seed, minutes=[6, 2, 1], kinds=KINDS)
    assert sum(done.values()) == 20
