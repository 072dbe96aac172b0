"""Parses replies as redis-py's parsers do.

There are two readers with the same methods: hiredis, and one in Python for connections
whose parser is redis-py's own. redis-py's own parsers cannot be used here: after an
error reply they put the bytes back, to be read again.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from redis.exceptions import InvalidResponse

from geventpool.redis.internals import hiredis, parser_of, uses_hiredis

__all__ = ["MORE", "Push", "ReplyReader", "reader_of"]

#: What ``gets`` returns when a reply is not yet complete.
MORE = object()

_Step = Generator[None, None, Any]


class Push(list[Any]):
    """A push of the server, read by :class:`ReplyReader`."""


class ReplyReader:
    """Reads replies of RESP2 and RESP3 that may arrive in pieces.

    :param parse_error: makes an exception from the text of an error reply.
    :param decode: makes the caller's value from the bytes of a string.
    """

    def __init__(self, parse_error: Any, decode: Any) -> None:
        self._parse_error = parse_error
        self._decode = decode
        self._buffer = bytearray()
        #: where the unread bytes begin
        self._start = 0
        #: the reply that is being read
        self._step: _Step | None = None
        #: the error of decoding a part of the present reply
        self._flaw: Exception | None = None
        self._is_push = False

    def feed(self, data: bytes | bytearray, start: int, length: int) -> None:
        """Add bytes that have arrived."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += memoryview(data)[start : start + length]

    def has_data(self) -> bool:
        """Return whether a part of a reply has arrived."""
        return self._step is not None or self._start < len(self._buffer)

    def gets(self) -> Any:
        """Return the next reply; :data:`MORE`: it is not complete.

        :raises InvalidResponse: the bytes violate the protocol. Nothing can be read any
            more.
        :raises Exception: the reply cannot be decoded. The next one can be read.
        """
        if self._step is None:
            if self._start == len(self._buffer):
                return MORE
            self._flaw, self._is_push = None, False
            self._step = self._value(outermost=True)
        try:
            next(self._step)
            return MORE
        except StopIteration as end:
            self._step = None
            reply = end.value
        if self._flaw is not None:
            raise self._flaw
        return Push(reply) if self._is_push else reply

    def _line(self) -> _Step:
        """Read a line, in one step or several."""
        searched = self._start
        while (end := self._buffer.find(b"\r\n", searched)) < 0:
            # The first byte of the line's end may have arrived. feed() moves the start.
            ahead = max(len(self._buffer) - 1 - self._start, 0)
            yield
            searched = self._start + ahead
        line = bytes(self._buffer[self._start : end])
        self._start = end + 2
        return line

    def _bytes(self, length: int) -> _Step:
        """Read *length* bytes and the end of line after them."""
        while len(self._buffer) - self._start < length + 2:
            yield
        end = self._start + length
        found = bytes(self._buffer[self._start : end])
        if self._buffer[end : end + 2] != b"\r\n":
            raise InvalidResponse(f"Protocol Error: no end after {length} bytes")
        self._start = end + 2
        return found

    def _value(self, outermost: bool = False) -> _Step:
        """Read one value."""
        line = yield from self._line()
        kind, rest = line[:1], line[1:]
        try:
            if kind in b"+-:_,#(" and kind:
                return self._simple(kind, rest)
            if kind in b"$=!" and kind:
                return (yield from self._bulk(kind, int(rest)))
            if kind in b"*~>%" and kind:
                self._is_push = self._is_push or (outermost and kind == b">")
                return (yield from self._collection(kind, int(rest)))
        except ValueError as error:
            raise InvalidResponse(f"Protocol Error: {line!r}") from error
        raise InvalidResponse(f"Protocol Error: {line!r}")

    def _simple(self, kind: bytes, rest: bytes) -> Any:
        if kind == b"+":
            return self._attempt(self._decode, rest)
        if kind == b"-":
            return self._attempt(self._parse_error, rest.decode("utf-8", "replace"))
        if kind in b":(":
            return int(rest)
        if kind == b",":
            return float(rest)
        return rest == b"t" if kind == b"#" else None

    def _bulk(self, kind: bytes, length: int) -> _Step:
        if length < 0:
            return None
        found = yield from self._bytes(length)
        if kind == b"!":
            return self._attempt(self._parse_error, found.decode("utf-8", "replace"))
        return self._attempt(self._decode, found[4:] if kind == b"=" else found)

    def _collection(self, kind: bytes, length: int) -> _Step:
        if length < 0:
            return None
        if kind != b"%":
            items = []
            for _ in range(length):
                items.append((yield from self._value()))
            return items
        pairs: dict[Any, Any] = {}
        for _ in range(length):
            key = yield from self._value()
            value = yield from self._value()
            self._attempt(pairs.__setitem__, key, value)
        return pairs

    def _attempt(self, work: Any, *args: Any) -> Any:
        """Call *work*. Its error is raised when the reply is complete."""
        try:
            return work(*args)
        except Exception as error:
            self._flaw = self._flaw or error
            return None


def reader_of(conn: Any) -> tuple[Any, type]:
    """Return a reader for a connection of redis-py, and the type of its pushes.

    It does not have bytes that *conn* has already read.
    """
    parser, encoder = parser_of(conn), conn.encoder
    if not uses_hiredis(parser):
        return ReplyReader(parser.parse_error, encoder.decode), Push
    options: dict[str, Any] = {}
    if encoder.decode_responses:
        options = {"encoding": encoder.encoding, "errors": encoder.encoding_errors}
    reader = hiredis.Reader(
        protocolError=InvalidResponse,
        replyError=parser.parse_error,
        notEnoughData=MORE,
        **options,
    )
    return reader, getattr(hiredis, "PushNotification", Push)
