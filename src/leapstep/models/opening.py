"""A model by its name, as the command line has it: a folder, a name on the Hub, or a user's own network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leapstep import plugin
from leapstep.models import folder
from leapstep.text import reason

if TYPE_CHECKING:  # a name may be refused before there is need of torch
    import torch

    from leapstep.models.model import Model


def check(source: str, convention: str | Path | None = None, shape: Sequence[int] | None = None) -> None:
    """Make sure, as far as it can be told without opening it, that a name is one of a model; see `open_model`.

    Raises:
        ValueError: one line that says what is missing or contradicts.
    """
    path, function = plugin.parts(source)
    if not function:
        for name, value in (("convention", convention), ("shape", shape)):
            if value is not None:
                raise ValueError(f"{name} is for file.py:function: {source} says itself how it is called, leave it out")
        folder.local(source)
    elif convention is None:
        raise ValueError(
            f"{source} is a network of your own: say how it is called by --convention FILE, which leapstep doctor "
            f"{source} DATA --save FILE writes"
        )
    else:
        plugin.check(path)


def open_model(
    source: str,
    *,
    convention: str | Path | None = None,
    shape: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> Model:
    """Open a model by its name.

    Arguments:
        source: a run folder, a diffusers pipeline folder, `owner/name` on the Hub, or `file.py:function`. A file is
            executed with all that is in it.
        convention: of a user's own network, a file that `Convention.save` or `leapstep doctor --save` wrote.
        shape: of one sample, where the convention does not have it.
        device: where the network goes; it is in evaluation mode.
    Raises:
        ValueError: one line that says what is missing, broken or not supported.
    """
    check(source, convention, shape)
    if convention is None:
        from leapstep.models import checkpoint

        return checkpoint.load(source, device)
    return _own(source, convention, shape, device)


def _own(source: str, convention: str | Path, shape: Sequence[int] | None, device: torch.device | str) -> Model:
    """A user's own network as a model."""
    from torch import nn

    from leapstep.core.convention import Convention
    from leapstep.models import beside
    from leapstep.models.model import Model

    how = Convention.read(convention)
    if shape is not None:
        if how.shape not in (None, tuple(shape)):
            raise ValueError(f"shape {list(shape)}: {convention} says {list(how.shape or ())}, leave it out")
        how = dataclasses.replace(how, shape=tuple(shape))
    if how.shape is None:
        raise ValueError(f"{convention} lacks the shape of one sample: pass --shape, such as --shape 3,32,32")
    network, _ = plugin.network(*plugin.parts(source))
    if not isinstance(network, nn.Module):
        raise ValueError(f"{source} returned a {type(network).__name__}: return an nn.Module")
    network = network.to(device).eval()
    calibration = beside.read_calibration(file_of(source, convention, folder.CALIBRATION), network)
    kept = file_of(source, convention, folder.MOMENTS)
    moments = beside.read_moments(kept, network, how.shape, len(how.classes))
    model = Model(network, how, calibration=calibration, moments=moments)
    tuned = beside.read_tuned(file_of(source, convention, folder.TUNED), model)
    model = dataclasses.replace(model, tuned=tuned)
    if shape is not None and all(condition.null is not None for condition in how.conditions):
        _try(model, source)
    return model


def _try(model: Model, source: str) -> None:
    """Call a network once on the shape that was asked for. Raises ValueError where it cannot be called with it."""
    import torch

    try:
        with torch.no_grad():
            model.diffusion().denoise(torch.zeros(1, *model.shape, device=model.device), torch.tensor(0.5))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise ValueError(
            f"shape {list(model.shape)}: {source} cannot be called on x of shape {[1, *model.shape]}: {reason(error)}"
        ) from error


def file_of(source: str, convention: str | Path | None, name: str) -> Path:
    """Where a file about a model lies: in its folder, or beside the convention of a user's own network.

    Arguments:
        name: of the file, such as `leapstep.models.folder.CALIBRATION`.
    """
    if convention is None:
        return Path(source) / name
    path = Path(convention)
    return path.with_name(f"{path.stem}.{name}")
