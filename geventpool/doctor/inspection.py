"""Run by ``python -c`` in a process of its own: import a program, tell what is patched.

Arguments: the module, and the descriptor that the answer is written to. It uses the
standard library alone, so that the program decides what is imported first.
"""

import importlib
import json
import os
import sys
import traceback
import warnings

#: Modules whose objects gevent replaces, by the name that it has for them.
PARTS = ("socket", "ssl", "select", "time", "threading", "subprocess", "queue", "os")

#: So many modules are named; the answer must fit into a pipe.
MOST = 200


def inspect(name: str) -> "dict[str, object]":
    """Import the module *name* and describe the process afterwards."""
    sys.path.insert(0, os.getcwd())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            importlib.import_module(name)
        except BaseException as error:
            # Not its text, which may be secret.
            return {"failed": f"{type(error).__name__} at {_line(error)}"}
    monkey = sys.modules.get("gevent.monkey")
    return {
        "patched": [
            part for part in PARTS if monkey and monkey.is_module_patched(part)
        ],
        "unpatched": sorted(_keepers(monkey.saved))[:MOST] if monkey else [],
        "warnings": sum(
            each.category.__name__ == "MonkeyPatchWarning" for each in caught
        ),
    }


def _line(error: BaseException) -> str:
    # The first one is that of this module.
    _, *lines = traceback.walk_tb(error.__traceback__)
    # Else os.py would be named for a variable of the environment that is missing.
    own = [
        line
        for line in lines
        if not _is_standard(str(line[0].f_globals.get("__name__")))
    ]
    frame, number = (own or lines)[-1]
    return f"{os.path.basename(frame.f_code.co_filename)}:{number}"


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _keepers(saved: "dict[str, dict[str, object]]") -> "set[str]":
    """The modules that keep an object which gevent has replaced elsewhere."""
    originals = {
        id(value): value
        for names in saved.values()
        for value in names.values()
        if callable(value)
    }
    keepers = set()
    for name, module in list(sys.modules.items()):
        if _is_standard(name) or name.partition(".")[0] in ("gevent", "geventpool"):
            continue
        for value in list(getattr(module, "__dict__", {}).values()):
            if originals.get(id(value)) is value and value is not None:
                keepers.add(name)
    return keepers


if __name__ == "__main__":  # pragma: no cover (in a process of its own)
    report = json.dumps(inspect(sys.argv[1]))
    with os.fdopen(int(sys.argv[2]), "w") as out:
        out.write(report)
    # What the program has started must not go on.
    os._exit(0)
