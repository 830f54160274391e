"""On a test's host: a worker that is started has a device of fixed speed (tests.helpers)."""

import os
import sys

if "FARSCRIBE_FAKE_SPEED" in os.environ and sys.orig_argv[2:3] == ["serve"]:
    os.environ["PYTHONPATH"] = os.environ["FARSCRIBE_ROOT"]
    os.execv(
        sys.executable,
        [sys.executable, "-m", "tests.helpers.fixed_speed", *sys.orig_argv[2:]],
    )
