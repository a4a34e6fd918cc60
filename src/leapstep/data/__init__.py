"""Data sets, their held-out parts, and images for people."""

import pkgutil

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [module.name for module in pkgutil.iter_modules(__path__)],
    {"dataset": ["Data", "NoSplit"], "readers": ["READERS", "read", "read_picture"]},
)
