"""Only commands that are known to be safe share a connection."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from geventpool.redis.shareable import (
    SHAREABLE,
    are_shareable,
    is_shareable,
    waits_for_replicas,
)
from tests.servers import RedisServer

#: What the server says of commands that change or block their connection.
FORBIDDEN_FLAGS = {"blocking", "admin", "pubsub", "module"}
#: Its flags call these so, for other reasons.
EXCEPTIONS = {
    # They wait only with BLOCK, and are looked at closely.
    "XREAD",
    "XREADGROUP",
    # To publish changes nothing about the publisher.
    "PUBLISH",
    "SPUBLISH",
}


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "key"),
        ("get", "key"),
        (b"GET", "key"),
        ("GET key",),
        ("SCRIPT LOAD", "return 1"),
        ("script", b"exists", "00"),
        ("XREAD", "STREAMS", "block", "0"),
        ("XREAD", "COUNT", "1", "streams", "s", "0"),
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"),
        ("OBJECT", "ENCODING", "key"),
        ("XINFO STREAM", "s"),
        ("EVALSHA", "00", 0),
        ("PING",),
    ],
)
def test_a_safe_command_is_shared_however_it_is_spelled(command: Any) -> None:
    """redis-py's packer splits names and takes bytes, so the list must too."""
    assert is_shareable(command)


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("",),
        (None,),
        ("BLPOP", "key", 0),
        ("blpop key 0",),
        (b"BLPOP", "key", 0),
        ("XREAD", "BLOCK", "0", "STREAMS", "s", "$"),
        ("XREAD", "COUNT", 1, b"block", 0, "STREAMS", "s", "$"),
        ("XREAD BLOCK 0 STREAMS s $",),
        ("XREAD",),
        ("XREADGROUP", "GROUP", "g", "c", bytearray(b"BLOCK"), 0, "STREAMS", "s", ">"),
        ("WAIT", 1, 0),
        ("MULTI",),
        ("SELECT", 1),
        ("CLIENT", "REPLY", "OFF"),
        ("SCRIPT",),
        ("SCRIPT", "KILL"),
        ("SCRIPT DEBUG", "YES"),
        ("OBJECT", "HELP"),
        ("SUBSCRIBE", "c"),
        ("NEWCOMMAND", "key"),
        ("JSON.GET", "key"),
    ],
)
def test_what_may_be_unsafe_is_not_shared(command: Any) -> None:
    """A command that blocks, changes the connection or is unknown harms the others."""
    assert not is_shareable(command)


@pytest.mark.parametrize(
    ("commands", "shared"),
    [
        ([], False),
        ([("GET", "a"), ("incr", "b")], True),
        ([("MULTI",), ("GET", "a"), ("EXEC",)], True),
        ([("MULTI",), ("GET", "a")], False),
        ([("GET", "a"), ("MULTI",), ("EXEC",)], False),
        ([("MULTI",), ("MULTI",), ("EXEC",)], False),
        ([("GET", "a"), ("BLPOP", "b", 0)], False),
        ([("WATCH", "a"), ("GET", "a")], False),
    ],
)
def test_a_pipeline_is_shared_if_each_of_its_commands_is(
    commands: Any, shared: bool
) -> None:
    """One piece can't be sent over two connections."""
    assert are_shareable(commands) is shared


@pytest.mark.parametrize("name", ["WAIT", "waitaof", "WAIT 1 0", b"WAIT"])
def test_commands_that_wait_for_writes_are_told(name: Any) -> None:
    """They mean the writes of their own connection."""
    assert waits_for_replicas((name, 1, 0))
    assert not waits_for_replicas(("GET", "key"))


def test_the_server_calls_no_shared_command_blocking(redis_server: RedisServer) -> None:
    """The list is kept by hand; the server knows its commands."""
    client = redis.Redis(host=redis_server.host, port=redis_server.port)
    wrong = []
    for name, details in client.command().items():
        flags = {str(flag) for flag in details["flags"]}
        categories = {str(each) for each in details.get("acl_categories", ())}
        harmful = flags & FORBIDDEN_FLAGS or categories & {"@blocking", "@admin"}
        if harmful and name.upper() in SHAREABLE - EXCEPTIONS:
            wrong.append((name, harmful))
    client.close()
    assert wrong == []
