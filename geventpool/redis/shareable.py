"""Decides which commands may share a connection with those of other greenlets.

It lists the commands that are safe. Any other command gets a connection of its own. A
command is safe if it does not block the connection, does not change or report its
state, and has one reply, which is decoded as usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["SHAREABLE", "are_shareable", "is_shareable", "waits_for_replicas"]

_STRINGS = """
    APPEND DECR DECRBY GET GETDEL GETEX GETRANGE GETSET INCR INCRBY INCRBYFLOAT LCS
    MGET MSET MSETNX PSETEX SET SETEX SETNX SETRANGE STRLEN SUBSTR
    BITCOUNT BITFIELD BITFIELD_RO BITOP BITPOS GETBIT SETBIT
    PFADD PFCOUNT PFMERGE
"""
_KEYS = """
    COPY DEL EXISTS EXPIRE EXPIREAT EXPIRETIME MOVE PERSIST PEXPIRE PEXPIREAT
    PEXPIRETIME PTTL RANDOMKEY RENAME RENAMENX SCAN SORT SORT_RO TOUCH TTL TYPE UNLINK
"""
_HASHES = """
    HDEL HEXISTS HEXPIRE HEXPIREAT HEXPIRETIME HGET HGETALL HGETDEL HGETEX HINCRBY
    HINCRBYFLOAT HKEYS HLEN HMGET HMSET HPERSIST HPEXPIRE HPEXPIREAT HPEXPIRETIME
    HPTTL HRANDFIELD HSCAN HSET HSETEX HSETNX HSTRLEN HTTL HVALS
"""
_LISTS_AND_SETS = """
    LINDEX LINSERT LLEN LMOVE LMPOP LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM RPOP
    RPOPLPUSH RPUSH RPUSHX
    SADD SCARD SDIFF SDIFFSTORE SINTER SINTERCARD SINTERSTORE SISMEMBER SMEMBERS
    SMISMEMBER SMOVE SPOP SRANDMEMBER SREM SSCAN SUNION SUNIONSTORE
"""
_SORTED_SETS = """
    ZADD ZCARD ZCOUNT ZDIFF ZDIFFSTORE ZINCRBY ZINTER ZINTERCARD ZINTERSTORE ZLEXCOUNT
    ZMPOP ZMSCORE ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE
    ZRANGESTORE ZRANK ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREVRANGE
    ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION ZUNIONSTORE
    GEOADD GEODIST GEOHASH GEOPOS GEORADIUS GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO
    GEORADIUS_RO GEOSEARCH GEOSEARCHSTORE
"""
_STREAMS = """
    XACK XACKDEL XADD XAUTOCLAIM XCLAIM XDEL XDELEX XLEN XPENDING XRANGE XREVRANGE
    XSETID XTRIM
"""
_OTHERS = """
    PUBLISH SPUBLISH EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL FCALL_RO ECHO PING DBSIZE
    TIME
"""

#: Commands that are safe whatever their arguments are.
SHAREABLE = frozenset(
    (
        _STRINGS + _KEYS + _HASHES + _LISTS_AND_SETS + _SORTED_SETS + _STREAMS + _OTHERS
    ).split()
)

#: Commands that are safe only with one of these subcommands.
_SUBCOMMANDS = {
    "MEMORY": frozenset({"USAGE"}),
    "OBJECT": frozenset({"ENCODING", "FREQ", "IDLETIME", "REFCOUNT"}),
    "SCRIPT": frozenset({"EXISTS", "LOAD"}),
    "XGROUP": frozenset(
        {"CREATE", "CREATECONSUMER", "DELCONSUMER", "DESTROY", "SETID"}
    ),
    "XINFO": frozenset({"CONSUMERS", "GROUPS", "STREAM"}),
}

#: Commands that are safe without BLOCK.
_READERS = frozenset({"XREAD", "XREADGROUP"})

#: Commands whose result depends on the last write of their connection.
_WAITERS = frozenset({"WAIT", "WAITAOF"})


def is_shareable(args: Sequence[Any]) -> bool:
    """Return whether a command may go over a shared connection. Never switches.

    :param args: name and arguments, as redis-py's ``execute_command`` takes them. The
        name may contain further words, as in ``"SCRIPT LOAD"``.
    """
    words = _words(args[0]) if args else []
    if not words:
        return False
    name = words[0]
    if name in SHAREABLE:
        return True
    if name in _SUBCOMMANDS:
        following = words[1:] or [_word(each) for each in args[1:2]]
        return bool(following) and following[0] in _SUBCOMMANDS[name]
    return name in _READERS and not _blocks([*words[1:], *args[1:]])


def are_shareable(commands: Sequence[Sequence[Any]]) -> bool:
    """Return whether the commands of a pipeline may go over a shared connection.

    The pipeline may be a transaction: ``MULTI`` first and ``EXEC`` last, and neither
    in between. Never switches.
    """
    if not commands:
        return False
    is_transaction = tuple(commands[0]) == ("MULTI",)
    if is_transaction and tuple(commands[-1]) == ("EXEC",):
        commands = commands[1:-1]
    # The first part of is_shareable(), without a call, because most names are found at
    # once.
    return all(
        (type(each[0]) is str and each[0] in SHAREABLE) or is_shareable(each)
        for each in commands
    )


def waits_for_replicas(args: Sequence[Any]) -> bool:
    """Return whether a command waits for earlier writes of its own connection."""
    return not _WAITERS.isdisjoint(_words(args[0])[:1])


def _blocks(arguments: Iterable[Any]) -> bool:
    """Return whether the arguments of ``XREAD`` or ``XREADGROUP`` contain ``BLOCK``."""
    for each in arguments:
        word = _word(each)
        # The names of streams follow; one of them may be called BLOCK.
        if word == "STREAMS":
            return False
        if word == "BLOCK":
            return True
    return True


def _words(name: Any) -> list[str]:
    """Return the words of a name in upper case, as redis-py's packer splits it."""
    return _word(name).split()


def _word(value: Any) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("latin-1").upper()
    return value.upper() if isinstance(value, str) else ""
