"""The examples run as they stand and say what they claim."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_own_network():
    """20 steps come as near to the data as 1000, and nearer than a spiral's own size by far."""
    example = runpy.run_path(str(EXAMPLES / "own_network.py"))
    distance = example["main"](training_steps=500, n=1000)
    spread = example["spiral"](1000).var(0).sum().item()
    assert distance[20] < 0.15 * spread
    assert distance[20] < 2 * distance[1000] + 0.01
