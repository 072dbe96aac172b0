"""The project where it lives: behind gunicorn, on a command line, in a forked child."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest
from django.db import connection

from geventpool.testing import wait_until
from tests.compat.environment import REPOSITORY
from tests.django.conftest import where
from tests.django.project.models import Account
from tests.pauses import sample
from tests.servers import MariaDBServer, find_program
from tests.web import WebServer

LIMIT = 4
WEB = "web"


@pytest.fixture(scope="module")
def web_user(migrated: MariaDBServer) -> MariaDBServer:
    """An account for web servers; MariaDB itself refuses it one connection too many."""
    migrated.ask(
        f"CREATE OR REPLACE USER {WEB} IDENTIFIED BY '{WEB}' "
        f"WITH MAX_USER_CONNECTIONS {LIMIT}"
    )
    migrated.ask(f"GRANT ALL ON {migrated.database}.* TO {WEB}")
    return migrated


def environment(server: MariaDBServer, **more: str) -> dict[str, str]:
    """The variables with which the project finds its database."""
    database = {**where(server), "USER": WEB, "PASSWORD": WEB}
    return {
        "DATABASE": json.dumps(database),
        "POOL": json.dumps({"max_connections": LIMIT, "timeout": 20}),
        "DJANGO_SETTINGS_MODULE": "tests.django.project.settings",
        "PYTHONPATH": str(REPOSITORY),
        **more,
    }


def gunicorn(server: MariaDBServer, *words: str, **variables: str) -> WebServer:
    """The project behind gunicorn."""
    return WebServer(
        [
            *("-m", "gunicorn", "-k", "gevent", "--bind", "{address}"),
            *("--graceful-timeout", "20", *words, "tests.django.project.wsgi"),
        ],
        environment(server, **variables),
    )


def web_connections(server: MariaDBServer) -> int:
    """How many connections of the project the server has."""
    rows = server.ask(
        f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{WEB}'"
    )
    return int(rows[0][0])


@contextmanager
def watching(server: MariaDBServer) -> Iterator[list[int]]:
    """The numbers of connections the server has while the block runs."""
    seen: list[int] = []

    def watch() -> None:
        while True:
            seen.append(web_connections(server))
            sample()

    watcher = gevent.spawn(watch)
    try:
        yield seen
    finally:
        watcher.kill()


def storm(web: WebServer, requests: int) -> None:
    """Hundreds of requests at once, of all kinds; each answer is looked at."""

    def read(number: int) -> None:
        status, answer = web.get(f"/balance/{number % 5}")
        assert status == 200, answer
        # Nobody else touches these.
        assert answer["balance"] == 100

    def move(number: int) -> None:
        # Around a ring, so that all is as before in the end.
        giver, taker = (5 + (number // 10 + step) % 5 for step in (0, 1))
        assert web.get(f"/transfer/{giver}/{taker}/1")[0] == 200

    def fail(number: int) -> None:
        assert web.get(f"/fail/{number % 10}")[0] == 500

    def abandon(number: int) -> None:
        assert web.get(f"/abandon/{number % 10}")[0] == 200

    kinds = (read, read, move, read, fail, read, read, move, abandon, read)
    crowd = [gevent.spawn(kinds[each % 10], each) for each in range(requests)]
    gevent.joinall(crowd, raise_error=True)


def test_gunicorn_keeps_the_limit_and_the_money(accounts, web_user):
    """Three hundred requests at once on four connections, by the server's own count."""
    with gunicorn(web_user) as web, watching(web_user) as seen:
        storm(web, 300)
        # Places are left: all of them, and they are the same.
        answers = [web.get(f"/balance/{number % 5}") for number in range(20)]
        assert len({answer["connection"] for _, answer in answers}) <= LIMIT
        assert 1 <= web_connections(web_user) <= LIMIT
        assert 1 <= max(seen) <= LIMIT
    money = list(Account.objects.order_by("number").values_list("balance", flat=True))
    assert sum(money) == 1000
    assert money == [100] * 10


def test_a_preloaded_project_may_have_asked_before(accounts, web_user):
    """Workers begin with nothing of what the parent had opened."""
    # The parent's connection stays, for its main greenlet never gives it back.
    config = str(REPOSITORY / "tests/django/project/gunicorn.conf.py")
    with gunicorn(web_user, "--config", config, ASK_EARLY="1") as web:
        wait_until(lambda: web_connections(web_user) == 1, "the parent has asked")
        (parents,) = [
            int(row[0])
            for row in web_user.ask(
                f"SELECT id FROM information_schema.processlist WHERE user = '{WEB}'"
            )
        ]
        answers = []

        def ask(number: int) -> None:
            answers.append(web.get(f"/balance/{number % 10}"))

        # The limit is each process's own: the parent has a place of the account's.
        for number in range(20):
            ask(number)
        assert {status for status, _ in answers} == {200}, web.log
        assert parents not in {answer["connection"] for _, answer in answers}
        # It was not ended by a child that had a copy of it.
        assert parents in web_user.connection_ids()


def test_a_graceful_reload_loses_no_request(accounts, web_user):
    """The old worker ends what it has begun; the new one opens its own."""
    limit = {"POOL": json.dumps({"max_connections": LIMIT // 2})}
    with gunicorn(web_user, **limit) as web, watching(web_user) as seen:
        before = web.get("/balance/1")[1]["connection"]
        crowd = [gevent.spawn(web.get, f"/balance/{n % 10}") for n in range(40)]
        os.kill(web.pid, signal.SIGHUP)

        def is_renewed() -> bool:
            return web.get("/balance/1")[1]["connection"] > before + LIMIT

        gevent.joinall(crowd, raise_error=True)
        assert {each.get()[0] for each in crowd} == {200}
        wait_until(
            lambda: before not in web_user.connection_ids(), "the old one has gone"
        )
        assert web.get("/balance/1")[0] == 200
        assert max(seen) <= LIMIT


def test_runserver_serves_and_reloads(accounts, web_user):
    """Patched, with the autoreloader, which runs the project in a child."""
    words = [str(REPOSITORY / "tests/django/project/manage.py"), "runserver"]
    with WebServer([*words, "{address}"], environment(web_user)) as web:
        crowd = [gevent.spawn(web.get, f"/balance/{n % 10}") for n in range(30)]
        gevent.joinall(crowd, raise_error=True)
        assert {each.get()[0] for each in crowd} == {200}
        assert 1 <= web_connections(web_user) <= LIMIT


def run(server: MariaDBServer, script: str) -> str:
    """What a script prints, with the project's variables."""
    result = subprocess.run(
        # That nothing is patched there is said once.
        [
            *(sys.executable, "-W", "error", "-W", "ignore:geventpool:RuntimeWarning"),
            *("-c", textwrap.dedent(script)),
        ],
        env={**os.environ, **environment(server)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_manage_py_works_without_gevent(accounts, web_user):
    """Nothing is patched there, so nothing is pooled, and everything runs."""
    find_program("mysql", "mariadb-client")
    said = run(
        web_user,
        """
        import django
        django.setup()
        from django.core.management import call_command
        from django.db import connection
        call_command("check", databases=["default"])
        call_command("migrate", run_syncdb=True, verbosity=0)
        call_command("inspectdb", "project_account")
        call_command("dbshell", "--", "-e", "SELECT 6 * 7")
        print(type(connection.connection).__module__, connection.pool)
        """,
    )
    assert "no issues" in said and "class ProjectAccount" in said and "42" in said
    assert "pymysql.connections None" in said


def test_a_fork_shares_no_connection(accounts, web_user):
    """Neither the one that is lent nor those that are idle; also within atomic."""
    said = run(
        web_user,
        """
        from gevent import monkey
        monkey.patch_all()
        import os, django
        django.setup()
        from django.db import connection, transaction
        from tests.django.project.models import Account
        with transaction.atomic():
            Account.objects.filter(number=1).update(balance=1)
            mine = connection.connection.thread_id()
            child = os.fork()
            if not child:
                try:
                    try:
                        Account.objects.count()
                    except django.db.Error as error:
                        print("lost", flush=True)
                    transaction.set_rollback(True)
                    connection.in_atomic_block = False
                    connection.closed_in_transaction = False
                    connection.connection = None
                    Account.objects.count()
                    assert connection.connection.thread_id() != mine
                    print("own", flush=True)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            assert Account.objects.get(number=1).balance == 1
        assert connection.connection.thread_id() == mine
        child = os.fork()
        if not child:
            assert Account.objects.get(number=1).balance == 1
            print(connection.connection.thread_id() != mine, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        assert Account.objects.get(number=1).balance == 1
        """,
    )
    assert said.split() == ["lost", "own", "True"]
    assert connection.pool is not None
