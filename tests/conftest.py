"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# Tests share their CPUs with each other, so that how long one example takes says nothing; pytest-timeout bounds them.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
