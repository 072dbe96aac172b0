"""``python -m benchmarks [WORKLOAD ...]``: run workloads, print their tables."""

from gevent import monkey

monkey.patch_all()

# Everything below must see the patched standard library: redis-py, for one, picks its
# queue class at import.
import argparse  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from importlib import import_module  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402

from rich.console import Console  # noqa: E402

from benchmarks.report import Report, show, surroundings  # noqa: E402
from benchmarks.rounds import SCALES, Scale  # noqa: E402

#: In the order they run; each is a module of this package.
WORKLOADS = ("cycle", "contention", "growth", "sweep", "redis", "mysql")


def main(arguments: list[str] | None = None) -> int:
    """Run the workloads named; 0 if all ran, whether or not targets were met."""
    options = _parser().parse_args(arguments)
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        print(f"no workload {', '.join(sorted(unknown))}; there are: {WORKLOADS}")
        return 2
    scale = SCALES["quick" if options.quick else options.scale]
    console = Console(width=None if sys.stdout.isatty() else 130)
    names = options.workloads or [name for name in WORKLOADS if _is_there(name)]
    reports = [_run(name, scale, console) for name in names]
    ran = [report for report in reports if report is not None]
    if options.json:
        _save(options.json, scale, ran)
    return 0 if len(ran) == len(reports) else 1


def _is_there(name: str) -> bool:
    return find_spec(f"benchmarks.{name}") is not None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS)
    )
    parser.add_argument("--quick", action="store_true", help="a few rounds only")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the numbers")
    return parser


def _run(name: str, scale: Scale, console: Console) -> Report | None:
    try:
        workload = import_module(f"benchmarks.{name}")
        with console.status(f"{name} ..."):
            report: Report = workload.run(scale)
    except Exception as error:
        # One workload without its server or package must not take the rest along.
        console.print(f"{name}: could not run: {type(error).__name__}: {error}")
        return None
    show(report, console)
    return report


def _save(path: Path, scale: Scale, reports: list[Report]) -> None:
    plain = {
        **surroundings(),
        "scale": scale.name,
        "workloads": {report.workload: report.as_json() for report in reports},
    }
    path.write_text(json.dumps(plain, indent=1, allow_nan=False))


if __name__ == "__main__":
    sys.exit(main())
