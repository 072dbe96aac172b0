"""``top`` shows another process's pools, and trusts nothing that it answers."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent.pywsgi import WSGIServer

from geventpool import Pool, status, top
from geventpool.__main__ import main as run
from geventpool.testing import ScriptedConnector
from tests.servers import free_port

SECRET = "s3cr3t-w0rd"

Capture = pytest.CaptureFixture[str]


@contextmanager
def serving(application: Any) -> Iterator[str]:
    """The address of a server with this application."""
    server = WSGIServer(("127.0.0.1", 0), application, log=None)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.stop(timeout=1)


def answering(body: bytes, state: str = "200 OK", **headers: str) -> Any:
    """An application with one answer."""

    def application(environ: Any, start: Callable[..., Any]) -> list[bytes]:
        start(state, list(headers.items()))
        return [body]

    return application


@pytest.fixture
def address() -> Iterator[str]:
    """Of the status of one pool, which has a loan."""
    failing = ScriptedConnector(open=[ConnectionRefusedError(111, SECRET)])
    with Pool(ScriptedConnector(), max_connections=2, name="[red]shop") as pool:
        with Pool(failing, name="lost") as lost:
            with pytest.raises(ConnectionRefusedError):
                lost.acquire()
            with pool.connection(), serving(status.app([pool, lost])) as address:
                yield address


def test_the_table_is_shown_once(address: str, capsys: Capture) -> None:
    """Names are shown as they are: nothing in them is read as markup."""
    assert run(["top", address, "--once"]) == 0
    said = capsys.readouterr().out
    assert "[red]shop" in said and "1/2" in said and "ready" in said
    assert "lost: last failure: ConnectionRefusedError 111" in said
    assert "[red]shop: <" in said


def test_the_json_is_printed(address: str, capsys: Capture) -> None:
    """For programs; with or without the name of the file in the address."""
    for url in (address, f"{address}/", f"{address}/status.json"):
        assert run(["top", url, "--json"]) == 0
        state = json.loads(capsys.readouterr().out)
        assert [pool["name"] for pool in state["pools"]] == ["[red]shop", "lost"]


def test_budgets_and_idle_holds_are_shown(capsys: Capture) -> None:
    """Who has the places of the host, and which line to look at first."""
    hold = {"borrowed_at": "views.py:8", "waits_at": "http.py:9", "share": 0.83}
    numbers = dict.fromkeys(("in_use", "max_connections", "idle", "size", "waiting"), 1)
    pool = {
        "name": "shop",
        "ready": True,
        "loans": [],
        "stats": {**numbers, "idle_holds": [hold]},
    }
    share = {"pid": 1234567, "name": "web", "held": 3, "waiting": 2, "moved": 17}
    numbers = {"total": 40, "held": 31, "waiting": 2, "moved": 170, "recovered": 4}
    budget = {"name": "[red]db", **numbers, "shares": [share]}
    state = {"process": 1, "pools": [pool], "budgets": [budget]}
    with serving(answering(json.dumps(state).encode())) as address:
        assert run(["top", address, "--once"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "budget [red]db: 31/40 places taken, 2 waited for, 170 moved" in said
    assert "1234567" in said and "17" in said
    assert "views.py:8 holds a connection 83% of the time while it waits" in said


def test_the_table_is_live_until_it_is_interrupted(
    address: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is being restarted does not end it."""
    answers = [top.TopError("http://it answers with status 502"), None]

    def read(url: str, timeout: float) -> Any:
        error = answers.pop(0) if answers else KeyboardInterrupt()
        if error is not None:
            raise error
        return {"process": 7, "pools": []}

    # Without a terminal the table is shown once.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    real = top.read
    state = real(address, 5)
    first = iter([state])
    monkeypatch.setattr(
        top, "read", lambda url, timeout: next(first, None) or read(url, timeout)
    )
    assert run(["top", address, "--interval", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "status 502" in said and "process 7" in said


def test_a_pool_that_could_not_be_read_is_shown(capsys: Capture) -> None:
    """With its name, so that it is not overlooked."""
    pool = {"name": "bad", "ready": False, "reason": "the\x1b[2J pool is closed"}
    body = json.dumps({"process": 1, "pools": [pool]}).encode()
    with serving(answering(body)) as address:
        assert run(["top", address, "--once"]) == 0
    said = capsys.readouterr().out
    assert "bad" in said and "?" in said and "\x1b[2J" not in said


def test_control_characters_do_not_reach_the_terminal() -> None:
    """They could rewrite what is on the screen."""
    assert top.printable("a\x1b[31m\nb" + "c" * 500) == "a?[31m?b" + "c" * 112


def test_credentials_are_sent_and_not_shown(capsys: Capture) -> None:
    """The usual protection of such a page is a password."""
    seen: list[str] = []

    def application(environ: Any, start: Callable[..., Any]) -> list[bytes]:
        seen.append(environ.get("HTTP_AUTHORIZATION", ""))
        start("401 Unauthorized", [])
        return [b""]

    with serving(application) as address:
        url = address.replace("//", f"//me:{SECRET}%40@")
        assert run(["top", url, "--json"]) == 1
    assert base64.b64decode(seen[0].split()[1]).decode() == f"me:{SECRET}@"
    said = "".join(capsys.readouterr())
    assert "answers with status 401" in said and SECRET not in said


def test_a_redirect_is_not_followed(capsys: Capture) -> None:
    """The password would follow to another address."""
    moved = answering(b"", "302 Found", Location="http://127.0.0.1:1/")
    with serving(moved) as address:
        assert run(["top", address, "--json"]) == 1
    assert "answers with status 302" in capsys.readouterr().err


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"process": 1, "pools": [{}]}',
        b"[" * 100_000,
        b'{"process": 1, "pools": [{"name": "a", "ready": 1, "stats": {}}]}',
        b'{"process": {}, "pools": []}',
        b'{"process": 1, "pools": [], "budgets": [{}]}',
    ],
)
def test_what_is_no_status_page_is_named(body: bytes, capsys: Capture) -> None:
    """The likely mistake is a wrong path."""
    with serving(answering(body)) as address:
        assert run(["top", address, "--once"]) == 1
    assert "is no status page of geventpool" in capsys.readouterr().err


def test_a_long_answer_is_refused(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not fill the memory."""
    monkeypatch.setattr(top, "LONGEST", 10)
    with serving(answering(b"x" * 11)) as address:
        assert run(["top", address, "--json"]) == 1
    assert "more than 10 bytes" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_told_of(capsys: Capture) -> None:
    """With the reason of the operating system."""
    assert run(["top", f"http://127.0.0.1:{free_port()}", "--json"]) == 1
    assert "Connection refused" in capsys.readouterr().err


def test_a_silent_server_is_given_up(capsys: Capture) -> None:
    """After the whole of the time limit, however often a byte comes."""
    never = gevent.event.Event()

    def application(environ: Any, start: Callable[..., Any]) -> list[bytes]:
        never.wait()
        start("200 OK", [])
        return []

    with serving(application) as address:
        assert run(["top", address, "--json", "--timeout", "0.1"]) == 1
        never.set()
    assert "cannot be read: TimeoutError" in capsys.readouterr().err


def test_what_is_no_http_is_told_of(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an error of the system has a text that may be shown."""

    def fail(*args: Any) -> Any:
        raise top.URLError(SECRET) if args else ArithmeticError(SECRET)  # type: ignore[attr-defined]

    monkeypatch.setattr(top, "build_opener", fail)
    assert run(["top", "http://127.0.0.1:1", "--json"]) == 1
    assert "cannot be read: no connection" in capsys.readouterr().err
    monkeypatch.setattr(top, "build_opener", lambda handler: fail())
    assert run(["top", "http://127.0.0.1:1", "--json"]) == 1
    said = capsys.readouterr().err
    assert "cannot be read: ArithmeticError" in said and SECRET not in said


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["ftp://u:s3cr3t-w0rd@host"], "URL: must look like http"),
        (["http://u:s3cr3t-w0rd@host:port"], "URL: must look like http"),
        (["http://ho st"], "URL: must look like http"),
        (["http://"], "URL: must look like http"),
        (["http://host", "--interval", "0"], "--interval: must be from 0.1"),
        (["http://host", "--timeout", "x"], "--timeout: must be from 0.1"),
        ([], "URL"),
    ],
)
def test_a_bad_argument_is_named_with_its_rule(
    arguments: list[str], words: str, capsys: Capture
) -> None:
    """Exit status 2, and no password."""
    assert run(["top", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and SECRET not in said


def test_without_rich_the_extra_is_named(
    address: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JSON needs nothing; the table needs the extra."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert run(["top", address]) == 1
    assert "geventpool[cli]" in capsys.readouterr().err
    assert run(["top", address, "--json"]) == 0
