"""The table of storms: a row for each, a column for each pool.

    python -m tests.failures                    everything, some minutes
    python -m tests.failures restart            one row
    python -m tests.failures kills --pool mysql --seed 3

With ``--page FILE`` the tables replace those between the marks of a page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from textwrap import fill

from benchmarks import page
from tests.failures import cells
from tests.failures.oracles import Outcome, broken
from tests.failures.peers import CONTESTANTS
from tests.failures.sites import SITES
from tests.failures.storms import STORMS
from tests.failures.tables import LEGEND, brief, markdown, rst

#: The columns, unless pools are named.
COLUMNS = (
    "redis",
    "redis-waiting",
    "redis-blocking",
    "redis-plain",
    "gsocketpool",
    "mysql",
    "mysql-waiting",
    "sqlalchemy",
    "queuepool",
    "pooleddb",
    "pymysql-pool",
)


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    parser = argparse.ArgumentParser("python -m tests.failures", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("storm", nargs="*", help=", ".join(STORMS))
    parser.add_argument(
        "--pool", action="append", choices=CONTESTANTS, help="only this one; repeatable"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="of trouble")
    parser.add_argument(
        "--harsh", action="store_true", help="interrupt borrowers in every storm"
    )
    parser.add_argument("--rst", action="store_true", help="reStructuredText alone")
    parser.add_argument("--markdown", action="store_true", help="Markdown alone")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write into this")
    parser.add_argument(
        "--json", action="store_true", help="one cell, in this process, as JSON"
    )
    return parser


def main(words: list[str] | None = None) -> int:
    """The exit status: 1 if an oracle of one of our pools is broken."""
    args = parser().parse_args(words)
    if unknown := set(args.storm) - set(STORMS):
        parser().error(f"no such storm: {', '.join(sorted(unknown))}")
    storms = args.storm or list(STORMS)
    pools = args.pool or COLUMNS
    options = {"seed": args.seed, "seconds": args.seconds, "harsh": args.harsh}
    if args.json:
        outcome = cells.run_here(storms[0], pools[0], **options)
        print(cells.to_json(outcome))
        return 0
    if args.page:
        # Bad marks are an error before the measurement, which takes minutes.
        page.replaced(args.page.read_text(encoding="utf-8"), "")
    is_quiet = args.rst or args.markdown
    outcomes: dict[tuple[str, str], Outcome] = {}
    for storm in storms:
        for pool in pools:
            outcome = cells.run_apart(storm, pool, **options)
            outcomes[storm, pool] = outcome
            if is_quiet:
                print(f"{storm} {pool}: {cells.words(outcome)}", file=sys.stderr)
            else:
                print(cells.details(outcome), flush=True)
    draw = markdown if args.markdown else rst
    tables = []
    for site in SITES:
        columns = [name for name in pools if CONTESTANTS[name].site == site]
        if columns:
            tables.append(draw(*_table(storms, columns, outcomes)))
    print("\n" + "\n\n".join([fill(LEGEND, 88), *tables]))
    if args.page:
        text = page.replaced(args.page.read_text("utf-8"), "\n\n".join(tables))
        args.page.write_text(text, encoding="utf-8")
    ours = [
        outcome
        for (_, pool), outcome in outcomes.items()
        if CONTESTANTS[pool].documented is not None
    ]
    return int(any(broken(outcome) for outcome in ours))


def _table(
    storms: list[str], pools: list[str], outcomes: dict[tuple[str, str], Outcome]
) -> tuple[list[str], list[list[str]]]:
    head = ["storm", *(CONTESTANTS[pool].title for pool in pools)]
    rows = [
        [storm, *(brief(outcomes[storm, pool]) for pool in pools)] for storm in storms
    ]
    return head, rows


if __name__ == "__main__":
    sys.exit(main())
