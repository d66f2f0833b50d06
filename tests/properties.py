"""Settings of property tests: how many examples each tries."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

QUICK = "quick"


def examples(most: int, **others: Any) -> settings:
    """Return settings for at most `most` examples; a tenth of them under `make quick`."""
    quick = settings.get_current_profile_name() == QUICK
    return settings(max_examples=max(2, most // 10) if quick else most, deadline=None, **others)
