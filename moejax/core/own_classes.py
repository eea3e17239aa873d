"""Methods that live outside of this package: a spec class by the name of its module, and whether an instance keeps a contract."""

import dataclasses
import importlib
import os
import sys
import typing
from typing import Any

from moejax.core.errors import SpecError, did_you_mean

IMPORTS = "MOEJAX_IMPORTS"  # of the environment: modules that a config may have imported


def is_elsewhere(name: Any) -> bool:
    """Whether a method's name says where its class is, 'package.module:Class', and not which file of a room."""
    return isinstance(name, str) and ":" in name


def class_elsewhere(name: str, *, path: str) -> type:
    """The frozen dataclass that 'package.module:Class' names.

    A config can be a stranger's, in a checkpoint: its module must have been imported already (by your program, or by the
    config file), or stand in the environment's MOEJAX_IMPORTS, a list with commas; then it is imported as Python would.
    Raises SpecError, naming `path`, where it is neither, where there is no such module or no such class. Source: ours.
    """
    module, _, wanted = name.partition(":")
    if module and module not in sys.modules and module not in os.environ.get(IMPORTS, "").split(","):
        raise SpecError(
            f"{path}.name={name!r}: the module {module!r} has not been imported, and a config alone does not make it be. Import it "
            f"first, in your program or at the top of your config file, or allow it by the environment: {IMPORTS}={module}."
        )
    try:
        found = importlib.import_module(module)
    except (ModuleNotFoundError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and what it imports is not
        raise SpecError(
            f"{path}.name={name!r}: there is no module {module!r}. Give 'package.module:Class', and put the folder that holds "
            "the module on sys.path (PYTHONPATH)."
        ) from error
    specs = [key for key, value in vars(found).items() if isinstance(value, type) and dataclasses.is_dataclass(value)]
    if wanted not in specs:
        raise SpecError(f"{path}.name={name!r}: {wanted!r} is no dataclass of {module}.{did_you_mean(wanted, specs)}")
    made: Any = getattr(found, wanted)
    if not made.__dataclass_params__.frozen:
        raise SpecError(
            f"{path}.name={name!r}: {wanted} must be frozen: @dataclasses.dataclass(frozen=True, kw_only=True)."
        )
    return made


def check_contract(hint: Any, value: Any, *, path: str) -> Any:
    """`value`, if it has all that the protocol `hint` (or one of a union) asks for. Other hints say nothing of it.

    Raises SpecError, naming `path`, for a class in the place of an instance, and for what is missing. Source: ours.
    """
    if isinstance(value, type):
        raise SpecError(f"{path} is the class {value.__name__}; give an instance, {value.__name__}(...).")
    contracts = [one for one in typing.get_args(hint) or (hint,) if getattr(one, "_is_protocol", False)]
    if not contracts or any(isinstance(value, contract) for contract in contracts):
        return value
    asked = [name for name in (*contracts[0].__annotations__, *vars(contracts[0])) if not name.startswith("_")]
    missing = ", ".join(name for name in asked if not hasattr(value, name))
    raise SpecError(f"{path}={value!r} is no {contracts[0].__name__}: it lacks {missing}.")
