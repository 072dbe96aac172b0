"""Runs Django's own tests under gevent, with its MySQL backend and Redis cache or ours.

Executed by path, in the ``tests`` folder of Django's source distribution, by
``django_suite.py``; it is the settings module of that run as well. The environment
variable ``POOLS`` says whose, ``SERVER`` where MariaDB is (JSON), ``REDIS`` the URL of
Redis, and ``OUTCOMES`` names the file to write: one line of JSON for each test.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import os  # noqa: E402
import runpy  # noqa: E402
import sys  # noqa: E402
import unittest  # noqa: E402

import gevent  # noqa: E402
import pymysql  # noqa: E402

#: Seconds one test may take.
PATIENCE = 60

OURS = os.environ["POOLS"] == "ours"

# Django's own backend, and one of its tests, know PyMySQL only by another name.
pymysql.version_info = (99, 0, 0, "final", 0)
pymysql.install_as_MySQLdb()


def database(name):
    """One of DATABASES."""
    settings = {
        "ENGINE": "geventpool.django.mysql" if OURS else "django.db.backends.mysql",
        "NAME": name,
        "TEST": {"CHARSET": "utf8mb4", "COLLATION": "utf8mb4_general_ci"},
        # PyMySQL would load all trusted certificates at each connect.
        "OPTIONS": {"ssl_disabled": True},
        **json.loads(os.environ["SERVER"]),
    }
    if OURS:
        settings["OPTIONS"]["pool"] = {"max_connections": 20, "timeout": 10}
    return settings


DATABASES = {"default": database("django"), "other": database("django_other")}
#: The tests of the cache look for this name. Ours may stand behind it.
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "redis": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": os.environ["REDIS"],
    },
}
SECRET_KEY = "known to everybody"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "run_django_tests.Runner"


def __getattr__(name):
    # Django's runner is imported when Django asks for it: not before it has settings.
    if name == "Runner":
        return make_runner()
    raise AttributeError(name)


class Result(unittest.TextTestResult):
    """Limits the time of a test, and writes down what became of it."""

    file = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if Result.file is None:
            Result.file = open(os.environ["OUTCOMES"], "w", buffering=1)  # type: ignore[assignment]

    def startTest(self, test):
        self.limit = gevent.Timeout.start_new(PATIENCE)
        super().startTest(test)

    def stopTest(self, test):
        self.limit.close()
        super().stopTest(test)

    def note(self, test, outcome, words=""):
        name = test.id()
        self.file.write(json.dumps([name, outcome, words[-3000:]]) + "\n")  # type: ignore[attr-defined]

    def addSuccess(self, test):
        super().addSuccess(test)
        self.note(test, "passed")

    def addError(self, test, err):
        super().addError(test, err)
        self.note(test, "error", self.errors[-1][1])

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.note(test, "failed", self.failures[-1][1])

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.note(test, "skipped", reason)

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.note(test, "expected failure")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.note(test, "unexpected success")

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            words = self._exc_info_to_string(err, test)  # type: ignore[attr-defined]
            self.note(test, "failed", f"{subtest}\n{words}")


def make_runner():
    """Django's runner, with our result."""
    from django.test.runner import DiscoverRunner

    class Runner(DiscoverRunner):
        def get_resultclass(self):
            return Result

    return Runner


def put_cache_in_place():
    """Let everybody who asks for Django's Redis cache get ours."""
    from django.core.cache.backends import redis

    from geventpool.django.cache import RedisCache

    redis.RedisCache = RedisCache


if __name__ == "__main__":
    if OURS:
        put_cache_in_place()
    # As a module of its own name it is the settings, too.
    sys.modules["run_django_tests"] = sys.modules["__main__"]
    sys.path.insert(0, os.getcwd())
    sys.argv[0] = "runtests.py"
    runpy.run_path("runtests.py", run_name="__main__")
