"""``python -m benchmarks [WORKLOAD ...]``: run workloads and print their tables.

With ``--from`` nothing is measured: a run that ``--json`` saved is drawn (``--plots``)
or shown in the docs (``--page``).
"""

from gevent import monkey

monkey.patch_all()

# Everything below must see the patched standard library: redis-py, for example, selects
# its queue class when it is imported.
import argparse  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from importlib import import_module  # noqa: E402
from pathlib import Path  # noqa: E402

from rich.console import Console  # noqa: E402

from benchmarks import page, plots, results  # noqa: E402
from benchmarks.metadata import collect  # noqa: E402
from benchmarks.report import Report, show, terminal  # noqa: E402
from benchmarks.rounds import SCALES, Scale  # noqa: E402

#: In the order in which they run. Each is a module of this package with a function
#: ``run(scale: Scale) -> Report``.
WORKLOADS = (
    *("cycle", "loans", "contention", "scaling", "hangup_cost"),
    *("redis", "mysql", "sqlalchemy", "django", "restart", "overload", "budget"),
)


def main(arguments: list[str] | None = None) -> int:
    """Run the named workloads; return 0 if all ran, whether or not targets are met."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(given)
    console, failed = terminal(), False
    try:
        # A bad file is an error before the measurement, which takes minutes.
        if options.page:
            page.replaced(options.page.read_text(encoding="utf-8"), "")
        if options.run:
            run = results.load(options.run)
        else:
            scale = SCALES["quick" if options.quick else options.scale]
            names = options.workloads or WORKLOADS
            run, failed = measured(names, scale, console, given)
        if options.json:
            results.save(options.json, run)
        if options.plots:
            for path in plots.draw(run, options.plots):
                console.print(str(path), style="dim")
        if options.page and not failed:
            page.write(run, options.page)
    except (OSError, results.WrongFileError) as error:
        parser.error(str(error))
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    listed = ", ".join(WORKLOADS)
    add("workloads", nargs="*", type=_workload, metavar="WORKLOAD", help=listed)
    add("--quick", action="store_true", help="a few rounds only")
    add("--scale", choices=SCALES, default="full")
    file = {"type": Path, "metavar": "FILE"}
    add("--from", dest="run", **file, help="a saved run; nothing is measured")
    add("--json", **file, help="save the numbers")
    add("--plots", type=Path, metavar="DIR", help="draw figures, as PNG and SVG")
    text = "renew the numbers of that page; by default docs/results/benchmarks.rst"
    add("--page", **file, nargs="?", const=page.PAGE, help=text)
    return parser


def _workload(name: str) -> str:
    if name not in WORKLOADS:
        known = ", ".join(WORKLOADS)
        raise argparse.ArgumentTypeError(f"{name!r} is not one of: {known}")
    return name


def measured(
    names: Sequence[str], scale: Scale, console: Console, arguments: list[str]
) -> tuple[results.Run, bool]:
    """Run the workloads and print their reports. May switch.

    :param arguments: the command, to be saved with the numbers.
    :return: the run, and whether a workload could not run.
    """
    where = collect(arguments)
    console.print(
        f"{where['cpu']}, {where['cores']} cores; Python {where['python']}, gevent "
        f"{where['packages']['gevent']}; scale {scale.name}: {scale.rounds} rounds"
    )
    for warning in where["warnings"]:
        console.print(f"  warning: {warning}", style="yellow")
    ran = [_run(name, scale, console) for name in names]
    reports = [report for report in ran if report is not None]
    return results.run_of(where, scale.name, reports), len(reports) < len(ran)


def _run(name: str, scale: Scale, console: Console) -> Report | None:
    try:
        workload = import_module(f"benchmarks.{name}")
        report: Report = workload.run(scale)
    except Exception as error:
        # A workload whose server or package is missing must not stop the others.
        console.print(f"{name}: could not run: {type(error).__name__}: {error}")
        return None
    show(report, console)
    return report


if __name__ == "__main__":
    sys.exit(main())
