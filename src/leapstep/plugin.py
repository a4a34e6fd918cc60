"""`file.py:function`: execution of a user's own code, with one-line errors that name the user's line."""

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from leapstep.remedies import remedy
from leapstep.text import one_line

PREFIX = "leapstep_plugin_"
"""How the names begin of modules that are a user's files."""


def executed() -> list[ModuleType]:
    """The modules that are files executed here, which no other process can import by their names."""
    return [module for name, module in sys.modules.items() if name.startswith(PREFIX)]


def parts(source: str) -> tuple[Path, str]:
    """The file and the function that `file.py:function` names; with "" for the function, what is no Python file.

    Raises:
        ValueError: a Python file without a function, a file that does not exist, or one of another kind.
    """
    path, _, function = source.rpartition(":")
    if function and path.endswith(".py"):
        if not function.isidentifier():
            raise ValueError(f"{source}: write it as file.py:function")
        return Path(path), function
    if source.endswith((".py", ".py:")):
        file = Path(source.rstrip(":"))
        if not file.is_file():
            raise ValueError(f"there is no file {file}")
        raise ValueError(f"{file}: name the function that returns the network as well, as in {file}:network")
    if function and Path(f"{path}.py").is_file():
        raise ValueError(f"{source}: the file is {path}.py, so write {path}.py:{function}")
    if Path(source).is_file():
        raise ValueError(
            f"{source} is neither a model folder nor file.py:function: name one of these, or owner/name on the Hub"
        )
    return Path(source), ""


def check(path: Path) -> None:
    """Make sure that there is a file to execute. Raises ValueError where there is none."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")


def network(path: Path, function: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Execute a Python file and call its function, which returns a network.

    Arguments:
        path, function: see `make`.

    Returns:
        the network, and the arguments of `leapstep.diagnose` that the function returns beside it, if it does.

    Raises:
        ValueError: in one line, as `make`; or the function returned something else.
    """
    made = make(path, function)
    net, hints = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
    if isinstance(net, type):
        raise ValueError(f"{path}:{function} returned the class {net.__name__}: return an instance of it")
    if not callable(net) or not isinstance(hints, Mapping):
        raise ValueError(
            f"{path}:{function} returned {type(made).__name__}: return the network, or (network, arguments of "
            "leapstep.diagnose as a dict)"
        )
    return net, dict(hints)


def make(path: Path, function: str) -> Any:
    """Execute a Python file and call one of its functions, without arguments.

    Arguments:
        path: the file; its neighbours can be imported, as when Python runs it.
        function: the name of a function, or of anything that can be called, in it.

    Returns:
        What the function returns.

    Raises:
        ValueError: in one line, where there is no such file or function, where the function needs arguments, or where
            the user's code raised.
    """
    check(path)
    module = execute(path, lambda: _imported(path))
    value = getattr(module, function, None)
    if not callable(value):
        names = [name for name, item in vars(module).items() if getattr(item, "__module__", "") == module.__name__]
        have = f"; it has {', '.join(names[:8])}" if names else ""
        raise ValueError(f"{path} has no function {function}{have}")
    _check_needs_nothing(value, f"{path}:{function}")
    return execute(path, value, f"{function}() raised ")


def execute(path: Path, call: Callable[[], Any], what: str = "") -> Any:
    """What a call of a user's code returns.

    Arguments:
        path: the file that the code is in.
        call: the call.
        what: the first words of the error.

    Raises:
        ValueError: in one line, what the call raised, and the last line of the file that led there.
    """
    try:
        return call()
    except (Exception, SystemExit) as error:
        lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):
            lines.append((error.filename or "", error.lineno))
        inside = [line for name, line in lines if Path(name).resolve() == path.resolve()]
        where = f"{path}, line {inside[-1]}" if inside else str(path)
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        if cure := remedy(error):
            raise ValueError(f"{where}: {what}{type(error).__name__}: {one_line(text, 120)}; {cure}") from error
        raise ValueError(f"{where}: {what}{type(error).__name__}: {one_line(text)}") from error


def _check_needs_nothing(function: Callable[..., Any], name: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are written in C say nothing
        return
    try:
        signature.bind()
    except TypeError as error:
        raise ValueError(f"{name} is called without arguments, and {error}: give them defaults") from error


def _imported(path: Path) -> ModuleType:
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = f"{PREFIX}{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class up there
    spec.loader.exec_module(module)
    return module
