"""`file.py:function`: a user's own code, executed, with errors of one line that name the user's line."""

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from leapstep.remedies import remedy
from leapstep.text import one_line


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
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    module = execute(path, lambda: _imported(path))
    found = getattr(module, function, None)
    if not callable(found):
        names = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        have = f"; it has {', '.join(names[:8])}" if names else ""
        raise ValueError(f"{path} has no function {function}{have}")
    _check_needs_nothing(found, f"{path}:{function}")
    return execute(path, found, f"{function}() raised ")


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
        places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):
            places.append((error.filename or "", error.lineno))
        own = [line for name, line in places if Path(name).resolve() == path.resolve()]
        where = f"{path}, line {own[-1]}" if own else str(path)
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        if cure := remedy(error):
            raise ValueError(f"{where}: {what}{type(error).__name__}: {one_line(said, 120)}; {cure}") from error
        raise ValueError(f"{where}: {what}{type(error).__name__}: {one_line(said)}") from error


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
    name = f"leapstep_plugin_{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class up there
    spec.loader.exec_module(module)
    return module
