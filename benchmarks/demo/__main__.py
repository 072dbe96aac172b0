"""``python -m benchmarks.demo``: see the pool at its main job."""

from gevent import monkey

monkey.patch_all()

# Everything below must see the patched standard library.
import argparse  # noqa: E402
import sys  # noqa: E402
from contextlib import ExitStack  # noqa: E402
from itertools import zip_longest  # noqa: E402

import gevent  # noqa: E402
from rich.console import Console  # noqa: E402

from benchmarks.demo.screen import Screen  # noqa: E402
from benchmarks.demo.show import Show, sights  # noqa: E402
from benchmarks.demo.stores import (  # noqa: E402
    LIMIT,
    EchoStore,
    MariaDBStore,
    RedisStore,
    Store,
)
from benchmarks.demo.summary import summary, verdict  # noqa: E402

#: The stock pools get this part of the time.
STOCK_PART = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 only if the limits held and no reply went astray."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(
        f"{options.greenlets} greenlets share {LIMIT} connections to each of two "
        "servers. Starting the servers ...",
        highlight=False,
    )
    with ExitStack() as stack:
        stores = _opened(stack, console, options.echo)
        ours = _shown("geventpool", stores, options.seconds, options.greenlets, console)
        shows = [ours]
        if not options.alone:
            seconds = options.seconds * STOCK_PART
            args = (seconds, options.greenlets, console)
            shows.append(_shown("the stock pools", stores, *args))
    console.print(summary(shows))
    return 0 if verdict(ours, console) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--seconds", type=_positive, default=10.0, metavar="N")
    parser.add_argument("--greenlets", type=int, default=300, metavar="N")
    parser.add_argument("--echo", action="store_true", help="use no real servers")
    parser.add_argument(
        "--alone", action="store_true", help="leave the stock pools out"
    )
    return parser


def _positive(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 3600:
        raise argparse.ArgumentTypeError("must be above 0 and below an hour")
    return seconds


def _opened(stack: ExitStack, console: Console, echo: bool) -> list[Store]:
    # One takes its time to start; the other starts meanwhile.
    kinds: tuple[type[Store], ...] = (RedisStore, MariaDBStore)
    starting = [] if echo else [gevent.spawn(_started, kind) for kind in kinds]
    gevent.joinall(starting)
    stores: list[Store] = []
    for kind, greenlet in zip_longest(kinds, starting):
        store = greenlet.get() if greenlet is not None else None
        if not isinstance(store, Store):
            if store is not None:
                console.print(str(store), style="yellow", highlight=False)
            console.print(
                f"An echo server in this process plays {kind.name}.", highlight=False
            )
            store = EchoStore(kind.name).__enter__()
        stack.push(store)
        stores.append(store)
    return stores


def _started(kind: type[Store]) -> Store | Exception:
    # An error of a server that can't be had is told here, not by the hub.
    try:
        return kind().__enter__()
    except Exception as error:
        return error


def _shown(
    title: str, stores: list[Store], seconds: float, size: int, console: Console
) -> Show:
    if not console.is_terminal:
        console.print(f"{title}:", highlight=False)
    with Screen(console) as screen:
        stock = title != "geventpool"
        show = Show(title, sights(stores, stock), seconds, size, screen.draw)
        show.run()
    return show


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        # The servers are down already; a traceback would tell nothing.
        sys.exit(130)
