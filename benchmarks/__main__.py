"""``python -m benchmarks [WORKLOAD ...]``: run workloads and print their tables.

``python -m benchmarks plot FILE DIR`` draws the figures of a saved run, ``compare OLD
NEW`` compares two runs, and ``readme`` renews the numbers in the docs.
"""

from gevent import monkey

monkey.patch_all()

# Everything below must see the patched standard library: redis-py, for example, selects
# its queue class when it is imported.
import argparse  # noqa: E402
import sys  # noqa: E402
from importlib import import_module  # noqa: E402
from pathlib import Path  # noqa: E402

from rich.console import Console  # noqa: E402
from rich.text import Text  # noqa: E402

from benchmarks import compare, results  # noqa: E402
from benchmarks.metadata import collect  # noqa: E402
from benchmarks.progress import bars  # noqa: E402
from benchmarks.report import Report, show, terminal  # noqa: E402
from benchmarks.rounds import SCALES, Scale  # noqa: E402

#: In the order in which they run. Each is a module of this package with a function
#: ``run(scale: Scale) -> Report``.
WORKLOADS = (
    "cycle",
    "loans",
    "contention",
    "scaling",
    "hangup_cost",
    "redis",
    "mysql",
    "sqlalchemy",
    "django",
    "coldstart",
    "memory",
    "restart",
    "overload",
    "budget",
)

#: Other commands, and the module whose ``main`` runs each.
COMMANDS = {
    "plot": "plots",
    "compare": "compare",
    "readme": "readme",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the named workloads; return 0 if all ran, whether or not targets are met."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in COMMANDS:
        command = import_module(f"benchmarks.{COMMANDS[given[0]]}")
        return int(command.main(given[1:]))
    options = _parser().parse_args(given)
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        print(
            f"unknown workload: {', '.join(sorted(unknown))}; there are: "
            + ", ".join(WORKLOADS)
        )
        return 2
    try:
        # A bad file is an error before the measurement, which takes minutes.
        earlier = options.compare and results.load(options.compare)
    except (OSError, results.NotARunError) as error:
        print(error)
        return 2
    names = options.workloads or list(WORKLOADS)
    scale = SCALES["quick" if options.quick else options.scale]
    console = terminal()
    run, failed = measured(names, scale, console, given)
    if options.json:
        results.save(options.json, run)
    if options.plots:
        for path in import_module("benchmarks.plots").draw(run, options.plots):
            console.print(Text(f"  {path}", style="dim"))
    if earlier:
        compare.show(earlier, run, console)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS)
    )
    parser.add_argument("--quick", action="store_true", help="a few rounds only")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the numbers")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="with a run saved before"
    )
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="draw figures, as PNG and SVG"
    )
    return parser


def measured(
    names: list[str], scale: Scale, console: Console, arguments: list[str]
) -> tuple[results.Run, list[str]]:
    """Run the workloads and print their reports. May switch.

    :param arguments: the command, to be saved with the numbers.
    :return: the run, and the names of the workloads that could not run.
    """
    where = collect(arguments)
    versions = where["packages"]
    console.print(
        Text(
            f"{where['cpu']}, {where['cores']} cores; Python {where['python']}, "
            f"gevent {versions['gevent']}; scale {scale.name}: {scale.rounds} rounds"
        )
    )
    for warning in where["warnings"]:
        console.print(Text(f"  warning: {warning}", style="yellow"))
    reports, failed = [], []
    for name in names:
        report = _run(name, scale, console)
        if report is None:
            failed.append(name)
        else:
            reports.append(report)
    return results.run_of(where, scale.name, reports), failed


def _run(name: str, scale: Scale, console: Console) -> Report | None:
    try:
        workload = import_module(f"benchmarks.{name}")
        with bars(name, console):
            report: Report = workload.run(scale)
    except Exception as error:
        # A workload whose server or package is missing must not stop the others.
        console.print(f"{name}: could not run: {type(error).__name__}: {error}")
        return None
    show(report, console)
    return report


if __name__ == "__main__":
    sys.exit(main())
