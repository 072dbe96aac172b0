"""``python -m geventpool COMMAND``: the command-line tools."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

#: Each command, the module whose ``main`` runs it, and its line in the help.
COMMANDS = {
    "advise": (
        "geventpool.advise.command",
        "measure a server of yours and suggest a pool size for it",
    ),
    "doctor": (
        "geventpool.doctor.command",
        "check versions, patching, and the limits of servers against your settings",
    ),
    "top": (
        "geventpool.top",
        "show the pools of a process that serves the status application",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names.

    The process must be monkey-patched: drivers look at the standard library when they
    are imported.

    May switch.

    :param arguments: the words after ``python -m geventpool``; None takes them from
        ``sys.argv``.
    :return: the exit status; 2 for bad arguments.
    """
    parser = argparse.ArgumentParser(
        "python -m geventpool",
        description="Command-line tools of geventpool.",
        epilog="\n".join(f"  {name}  {text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="one of the commands below")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="see COMMAND --help"
    )
    try:
        options = parser.parse_args(arguments)
    except SystemExit as error:
        return int(error.code or 0)
    module = import_module(COMMANDS[options.command][0])
    return int(module.main(options.arguments))


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    sys.exit(main())
