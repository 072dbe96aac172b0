"""
``python -m benchmarks [WORKLOAD ...]``: run workloads, print their tables.

``python -m benchmarks plot FILE DIR`` draws the figures of a saved run, ``compare OLD
NEW`` puts two beside each other, and ``readme`` renews the numbers in README.rst.
"""

from gevent import monkey

monkey.patch_all()

# Everything below must see the patched standard library: redis-py, for one, picks its
# queue class at import.
import argparse  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from importlib import import_module  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402
from tempfile import TemporaryDirectory  # noqa: E402

from rich.console import Console  # noqa: E402
from rich.text import Text  # noqa: E402

from benchmarks import compare, saved  # noqa: E402
from benchmarks.machine import surroundings  # noqa: E402
from benchmarks.progress import bars, step  # noqa: E402
from benchmarks.report import Report, show, terminal  # noqa: E402
from benchmarks.rounds import SCALES, Scale  # noqa: E402

#: In the order they run; each is a module of this package.
WORKLOADS = (
    "cycle",
    "contention",
    "throughput",
    "growth",
    "sweep",
    "watching",
    "redis",
    "mysql",
    "sqlalchemy",
    "django",
    "grid",
    "coldstart",
    "churn",
    "memory",
    "killstorm",
    "restart",
)

#: What else can be asked for, and the module whose ``main`` does it.
COMMANDS = {
    "plot": "plots",
    "compare": "compare",
    "readme": "readme",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the workloads named; 0 if all ran, whether or not targets were met."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in COMMANDS:
        command = import_module(f"benchmarks.{COMMANDS[given[0]]}")
        return int(command.main(given[1:]))
    options = _parser().parse_args(given)
    if options.processes < 1:
        print(f"--processes {options.processes}: there must be at least one")
        return 2
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        print(f"no workload {', '.join(sorted(unknown))}; there are: {WORKLOADS}")
        return 2
    try:
        # Before minutes are spent on numbers that nothing can be compared with.
        earlier = options.compare and saved.load(options.compare)
    except (OSError, saved.NotARunError) as error:
        print(error)
        return 2
    names = options.workloads or [name for name in WORKLOADS if _is_there(name)]
    scale = SCALES["quick" if options.quick else options.scale]
    console = terminal()
    if options.processes > 1:
        run, failed = _in_processes(options.processes, names, scale, console, given)
    else:
        run, failed = measured(names, scale, console, given)
    if options.json:
        saved.save(options.json, run)
    if options.plots:
        for path in import_module("benchmarks.plots").draw(run, options.plots):
            console.print(Text(f"  {path}", style="dim"))
    if earlier:
        compare.show(earlier, run, console)
    return 1 if failed else 0


def _is_there(name: str) -> bool:
    return find_spec(f"benchmarks.{name}") is not None


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
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="run all in N processes; with 3 or more, --compare can tell small things",
    )
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
) -> tuple[saved.Run, list[str]]:
    """
    Run the workloads and print what they say. **May switch.**

    :param arguments: the command, to be kept with the numbers.
    :return: the run, and the names of the workloads that could not be run.
    """
    where = surroundings(arguments)
    versions = where["packages"]
    console.print(
        Text(
            f"{where['cpu']}, {where['cores']} cores; Python {where['python']}, "
            f"gevent {versions['gevent']}; scale {scale.name}: {scale.rounds} rounds"
        )
    )
    for warning in where["warnings"]:
        console.print(Text(f"  careful: {warning}", style="yellow"))
    reports, failed = [], []
    for name in names:
        report = _run(name, scale, console)
        if report is None:
            failed.append(name)
        else:
            reports.append(report)
    return saved.run_of(where, scale.name, reports), failed


def _in_processes(
    count: int, names: list[str], scale: Scale, console: Console, arguments: list[str]
) -> tuple[saved.Run, list[str]]:
    """The same in so many processes, one after the other; only one tells its tables."""
    run, failed = measured(names, scale, console, arguments)
    there = [name for name in names if name not in failed]
    runs = [run]
    with (
        TemporaryDirectory() as folder,
        bars("again", console),
        step("processes", count - 1) as tick,
    ):
        for number in range(1, count):
            tick(f"{number + 1} of {count}")
            path = Path(folder, f"{number}.json")
            command = [sys.executable, "-m", "benchmarks", *there]
            command += ["--scale", scale.name, "--json", str(path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            runs.append(saved.load(path))
    return saved.merged(runs), failed


def _run(name: str, scale: Scale, console: Console) -> Report | None:
    try:
        workload = import_module(f"benchmarks.{name}")
        with bars(name, console):
            report: Report = workload.run(scale)
    except Exception as error:
        # One workload without its server or package must not take the rest along.
        console.print(f"{name}: could not run: {type(error).__name__}: {error}")
        return None
    show(report, console)
    return report


if __name__ == "__main__":
    sys.exit(main())
