"""Where things are kept that can be made anew, and by what names."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The folder of the cache: $LEAPSTEP_CACHE, or else `leapstep` in $XDG_CACHE_HOME or ~/.cache. It may not exist."""
    if own := os.environ.get("LEAPSTEP_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "leapstep")


def hash_of(*parts: Any) -> str:
    """SHA-256 of some values that JSON can hold, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
