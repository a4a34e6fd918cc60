"""Where things are kept that can be made anew."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of the cache: $LEAPSTEP_CACHE, or else `leapstep` in $XDG_CACHE_HOME or ~/.cache. It may not exist."""
    if own := os.environ.get("LEAPSTEP_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "leapstep")
