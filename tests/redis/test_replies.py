"""The reader of replies in Python reads what hiredis reads, in whatever pieces."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis._parsers import _HiredisParser, _RESP3Parser
from redis.exceptions import InvalidResponse

from geventpool.redis.replies import MORE, Push, ReplyReader, reader_of

WHOLE = [
    (b"+OK\r\n", b"OK"),
    (b":-12\r\n", -12),
    (b"(123456789012345678901\r\n", 123456789012345678901),
    (b",1.5\r\n", 1.5),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b"_\r\n", None),
    (b"$3\r\na\r\n\r\n", b"a\r\n"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"=7\r\ntxt:abc\r\n", b"abc"),
    (b"*-1\r\n", None),
    (b"*2\r\n:1\r\n*1\r\n+a\r\n", [1, [b"a"]]),
    (b"~2\r\n:1\r\n:2\r\n", [1, 2]),
    (b"%1\r\n+a\r\n:1\r\n", {b"a": 1}),
]


def plain(data: bytes) -> bytes:
    return data


def make_reader(decode: Any = plain) -> ReplyReader:
    return ReplyReader(_RESP3Parser(1024).parse_error, decode)


def feed(reader: ReplyReader, data: bytes) -> None:
    reader.feed(data, 0, len(data))


@pytest.mark.parametrize(("data", "reply"), WHOLE)
def test_a_reply_is_read_byte_by_byte(data: bytes, reply: Any) -> None:
    """The network may cut anywhere."""
    reader = make_reader()
    assert reader.gets() is MORE
    assert not reader.has_data()
    for index in range(len(data)):
        assert reader.gets() is MORE
        feed(reader, data[index : index + 1])
        assert reader.has_data()
    assert reader.gets() == reply
    assert not reader.has_data()


@given(
    # hiredis leaves large numbers as bytes, and redis-py's own parser does not.
    st.lists(
        st.sampled_from([each for each in WHOLE if each[0][:1] != b"("]), max_size=8
    ),
    st.lists(st.integers(1, 12), max_size=30),
)
def test_replies_are_those_of_hiredis_however_they_are_cut(
    chosen: list[tuple[bytes, Any]], sizes: list[int]
) -> None:
    """Two readers, one protocol."""
    data = b"".join(each for each, _ in chosen)
    ours, theirs = make_reader(), hiredis.Reader(notEnoughData=MORE)
    found: dict[Any, list[Any]] = {ours: [], theirs: []}
    for size in [*sizes, len(data)]:
        piece, data = data[:size], data[size:]
        for reader in (ours, theirs):
            reader.feed(piece, 0, len(piece))
            while (reply := reader.gets()) is not MORE:
                found[reader].append(reply)
    assert found[ours] == found[theirs] == [reply for _, reply in chosen]


def test_errors_are_made_by_redis_py() -> None:
    """Alone, in arrays, and as bulk errors of RESP3."""
    reader = make_reader()
    feed(reader, b"-WRONGTYPE no\r\n*2\r\n:1\r\n-MOVED 1 h:2\r\n!9\r\nERR wrong\r\n")
    alone, (one, inside), bulk = reader.gets(), reader.gets(), reader.gets()
    assert isinstance(alone, redis.ResponseError)
    assert one == 1
    assert isinstance(inside, redis.ResponseError)
    assert str(bulk) == "wrong"


def test_a_push_is_told_from_a_reply() -> None:
    """It belongs to no command."""
    reader = make_reader()
    feed(reader, b">2\r\n+invalidate\r\n*1\r\n+k\r\n*1\r\n:1\r\n")
    push = reader.gets()
    assert type(push) is Push
    assert push == [b"invalidate", [b"k"]]
    assert type(reader.gets()) is list


@pytest.mark.parametrize(
    "data", [b"?\r\n", b"\r\n", b":x\r\n", b"*x\r\n", b"$x\r\n", b"$1\r\nabc"]
)
def test_what_is_no_protocol_is_an_error(data: bytes) -> None:
    """Nobody can say where the next reply begins."""
    reader = make_reader()
    feed(reader, data)
    with pytest.raises(InvalidResponse):
        reader.gets()


def test_a_reply_that_cannot_be_decoded_costs_no_other_one() -> None:
    """All of its bytes are read before the error is raised."""
    reader = make_reader(lambda data: data.decode("ascii"))
    feed(reader, b"*2\r\n+\xff\r\n+a\r\n+b\r\n%1\r\n*0\r\n:1\r\n:7\r\n")
    with pytest.raises(UnicodeDecodeError):
        reader.gets()
    assert reader.gets() == "b"
    # A key of a map that can't be one in Python.
    with pytest.raises(TypeError):
        reader.gets()
    assert reader.gets() == 7


@pytest.mark.parametrize(
    ("parser", "kind"), [(_HiredisParser, hiredis.Reader), (_RESP3Parser, ReplyReader)]
)
@pytest.mark.parametrize("decodes", [False, True])
def test_a_connection_gets_the_reader_of_its_parser(
    parser: Any, kind: type, decodes: bool
) -> None:
    """And its way to decode."""
    conn = redis.Connection(parser_class=parser, decode_responses=decodes, protocol=3)
    reader, push = reader_of(conn)
    assert isinstance(reader, kind)
    feed(reader, b"+a\r\n>1\r\n+p\r\n")  # type: ignore[arg-type]
    assert reader.gets() == ("a" if decodes else b"a")  # type: ignore[attr-defined]
    assert type(reader.gets()) is push  # type: ignore[attr-defined]
