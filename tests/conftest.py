"""What holds for every test: no home of a user is touched, and property tests are repeatable."""

import os

from hypothesis import settings

# The machine may be busy: a slow example is no bug. On CI the examples are the same each time.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")
