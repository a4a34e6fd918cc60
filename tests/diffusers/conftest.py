"""Pipelines of diffusers for several files of tests."""

import copy

import pytest


@pytest.fixture(scope="module")
def made():
    """A pipeline of each kind, once; each test has a copy whose scheduler it may change."""
    from pipelines import KINDS  # which skips where diffusers is absent

    known = {}

    def make(name):
        if name not in known:
            known[name] = KINDS[name].make()
        return copy.copy(known[name])

    return make
