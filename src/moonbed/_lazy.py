"""Modules that are imported at their first use.

torch takes seconds to import; `moonbed --help`, `moonbed list` and a configuration error need none of it. A module of
Moonbed that only *uses* torch inside its functions therefore writes

    if TYPE_CHECKING:
        import torch
    else:
        torch = lazy_import("torch")

Modules that subclass `torch.nn.Module` cannot wait: their names begin with an underscore, and `build` imports them.
"""

import importlib
from types import ModuleType
from typing import Any


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module(self.__name__)
        value = getattr(module, name)
        if not name.startswith("__"):
            self.__dict__[name] = value  # the next access is an ordinary attribute
        return value


def lazy_import(name: str) -> Any:
    """A stand-in for the module `name` that imports it when an attribute is first asked for."""
    return _Lazy(name)
