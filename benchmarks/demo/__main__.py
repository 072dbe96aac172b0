"""``python -m benchmarks.demo``: see the pool at its main job."""

from gevent import monkey

monkey.patch_all()

# Everything below must see the patched standard library.
import argparse  # noqa: E402
import sys  # noqa: E402
from contextlib import ExitStack  # noqa: E402

import gevent  # noqa: E402
from rich.console import Console  # noqa: E402

from benchmarks.demo.show import Show  # noqa: E402
from benchmarks.demo.tables import Screen, summary, verdict  # noqa: E402
from benchmarks.stores import LIMIT, Store, echo_store, real_store  # noqa: E402

#: The shortest demo that has time for its acts, in seconds.
SHORTEST = 1.0


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return 0 if our limits held and no reply was wrong."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(
        f"{options.greenlets} greenlets share {LIMIT} connections to each of two "
        "servers. Starting the servers ...",
        highlight=False,
    )
    with ExitStack() as stack:
        stores = _open(stack, console, options.echo)
        shows = []
        for title in ("ours",) if options.alone else ("ours", "stock"):
            if not console.is_terminal:
                console.print(f"{title}:", highlight=False)
            with Screen(console) as screen:
                show = Show(
                    title,
                    stores,
                    options.seconds,
                    options.outage,
                    options.greenlets,
                    screen.draw,
                )
                show.run()
            shows.append(show)
    console.print(summary(shows))
    return 0 if verdict(shows[0], console) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.demo", description=__doc__)
    parser.add_argument(
        "--seconds",
        type=_at_least(SHORTEST),
        default=10.0,
        metavar="N",
        help="of each of the two runs (10)",
    )
    parser.add_argument(
        "--outage",
        type=_at_least(0.0),
        default=0.5,
        metavar="N",
        help="seconds for which Redis is away, in both runs (0.5)",
    )
    parser.add_argument("--greenlets", type=int, default=300, metavar="N")
    parser.add_argument("--echo", action="store_true", help="use no real servers")
    parser.add_argument(
        "--alone", action="store_true", help="leave the stock pools out"
    )
    return parser


def _at_least(least: float):
    def seconds(text: str) -> float:
        value = float(text)
        if not least <= value < 3600:
            raise argparse.ArgumentTypeError(
                f"must be at least {least:g} and less than an hour, not {text}"
            )
        return value

    return seconds


def _open(stack: ExitStack, console: Console, is_echo: bool) -> list[Store]:
    # One server takes its time to start; the other starts meanwhile.
    names = ("redis", "mysql")
    starting = {name: gevent.spawn(_started, name, is_echo) for name in names}
    gevent.joinall(list(starting.values()))
    stores: list[Store] = []
    for name, greenlet in starting.items():
        store = greenlet.get()
        if not isinstance(store, Store):
            if store is not None:
                console.print(str(store), style="yellow", highlight=False)
            console.print(
                f"An echo server in this process replaces {name}.", highlight=False
            )
            store = echo_store(name)
        stack.callback(store.close)
        stores.append(store)
    return stores


def _started(name: str, is_echo: bool) -> Store | Exception | None:
    # The error of a server that cannot start is printed above, not by the event loop.
    try:
        return None if is_echo else real_store(name)
    except Exception as error:
        return error


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        # The servers have ended; a traceback would say nothing.
        sys.exit(130)
