"""``python -m benchmarks.demo``: see the pool at its main job."""

from gevent import monkey

monkey.patch_all()

# Everything below must see the patched standard library.
import argparse  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from contextlib import ExitStack  # noqa: E402

import gevent  # noqa: E402
from rich.console import Console  # noqa: E402

from benchmarks.demo.scenario import (  # noqa: E402
    OURS_ALONE,
    SHARED,
    STOCK_POOLS,
    Scenario,
)
from benchmarks.demo.tables import Screen, summary, verdict  # noqa: E402
from benchmarks.servers import LIMIT, Server, echo_server, real_server  # noqa: E402

#: The shortest demo that has time for its phases, in seconds.
SHORTEST = 1.0


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return 0 if our limits held and no reply was wrong."""
    options = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    console.print(
        f"{options.greenlets} greenlets share {LIMIT} connections to each of two "
        "servers. Starting the servers ..."
    )
    with ExitStack() as stack:
        servers = _open(stack, console, options.echo)
        scenarios = []
        titles = [OURS_ALONE] if options.alone else [OURS_ALONE, STOCK_POOLS]
        if any(server.kind == "redis" for server in servers) and not options.alone:
            titles.append(SHARED)
        for number, title in _order(options.rounds, titles):
            if not console.is_terminal:
                console.print(f"round {number}, {title}:")
            lengths = (options.seconds, options.outage, options.greenlets)
            with Screen(console) as screen:
                scenarios.append(Scenario(title, servers, *lengths, screen.draw))
                scenarios[-1].run()
    console.print("\nThe same clients, the same kills, the same restart", style="bold")
    console.print(*summary(scenarios), sep="\n")
    return 0 if verdict(scenarios, console) else 1


def _order(rounds: int, titles: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Return the number and the pools of each run."""
    for number in range(1, rounds + 1):
        # A server that has just started is slower, and a machine has slow moments.
        for title in titles if number % 2 else reversed(titles):
            yield number, title


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.demo", description=__doc__)
    add = parser.add_argument

    def add_number(name: str, least: float, default: float, text: str) -> None:
        kind = type(default)

        def read(text: str) -> float:
            if not (value := kind(text)) >= least:
                rule = f"must be at least {least:g}, not {text}"
                raise argparse.ArgumentTypeError(rule)
            return value

        add(name, metavar="N", type=read, default=default, help=f"{text} ({default})")

    add_number("--seconds", SHORTEST, 8.0, "of each run")
    text = "all pools run so often, in turn; the tables show medians"
    add_number("--rounds", 1, 3, text)
    add_number("--outage", 0, 0.5, "seconds for which Redis is away, in all runs")
    add_number("--greenlets", 1, 300, "that send requests")
    add("--echo", action="store_true", help="use no real servers")
    add("--alone", action="store_true", help="our pools with their defaults only")
    return parser


def _open(stack: ExitStack, console: Console, is_echo: bool) -> list[Server]:
    # One server takes its time to start; the other starts meanwhile.
    names = ("redis", "mysql")
    starting = [gevent.spawn(_started, name, is_echo) for name in names]
    servers: list[Server] = []
    for name, greenlet in zip(names, starting):
        server = greenlet.get()
        if not isinstance(server, Server):
            console.print(str(server), style="yellow")
            console.print(f"An echo server in this process replaces {name}.")
            server = echo_server(name)
        stack.callback(server.close)
        servers.append(server)
    return servers


def _started(name: str, is_echo: bool) -> Server | object:
    # The error of a server that cannot start is printed above, not by the event loop.
    try:
        return "No real servers are used." if is_echo else real_server(name)
    except Exception as error:
        return error


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        # The servers have ended; a traceback would say nothing.
        sys.exit(130)
