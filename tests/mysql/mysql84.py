"""A server that speaks as MySQL 8.4 does, where that is not what MariaDB does.

Written after the documentation of the protocol and the source of MySQL:

* its greeting names ``caching_sha2_password``;
* changes of a session are reported in OK packets only, also those that a SELECT has
  made: the packet that ends its result has no room for them, so the next OK tells;
* ``session_track_state_change`` does not report itself, and its switch forgets what was
  reported before.
"""

from __future__ import annotations

import struct
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pymysql._auth import scramble_caching_sha2
from pymysql.constants import CLIENT

from tests.peers import Peer

VERSION = b"8.4.3"
PASSWORD = b"secret"
SALT = b"abcdefghijklmnopqrst"

_CAPABILITIES = (
    CLIENT.CAPABILITIES | CLIENT.SESSION_TRACK | CLIENT.CONNECT_WITH_DB
) & ~(CLIENT.SSL | CLIENT.DEPRECATE_EOF)

#: The bytes of the packet that asks for TLS.
_TLS_REQUEST = 36

_AUTOCOMMIT, _IN_TRANS, _CHANGED = 0x2, 0x1, 0x4000
_QUERY, _PING, _RESET, _QUIT = 3, 14, 31, 1


class MySQL84(Peer):
    """Answers what the tests ask.

    :param remembers: whether it has the password in its cache; otherwise the client has
        to send it whole: encrypted, or over TLS as it is.
    :param tls: its TLS context; None: it has none.

    ``said`` is all commands, one entry for each message. ``hidden`` are statements that
    change the session although their text does not show it.
    """

    def __init__(self, remembers: bool = True, tls: Any = None) -> None:
        super().__init__()
        self.remembers = remembers
        self.context = tls
        self.said: list[list[bytes]] = []
        self.hidden: set[bytes] = set()
        self.passwords: list[bytes] = []

    @property
    def client_options(self) -> dict[str, Any]:
        """The arguments of ``pymysql.connect``."""
        account = {"user": "shop", "password": PASSWORD.decode(), "database": "shop"}
        tls = {"ssl_disabled": True} if self.context is None else {}
        return {"host": self.host, "port": self.port, **tls, **account}

    def talk(self, sock: Any) -> None:
        """Serve one client."""
        session = _Session(self, sock)
        try:
            session.run()
        finally:
            # With TLS it is another one.
            session.sock.close()


class _Session:
    def __init__(self, server: MySQL84, sock: Any) -> None:
        self.server = server
        self.sock = sock
        self.status = _AUTOCOMMIT
        self.tracks = self.changed = False

    # Packets

    def send(self, number: int, *bodies: bytes) -> None:
        data = b""
        for body in bodies:
            data += struct.pack("<I", len(body))[:3] + bytes([number & 255]) + body
            number += 1
        self.sock.sendall(data)

    def read(self) -> list[bytes]:
        data = self.sock.recv(65536)
        bodies = []
        while data:
            end = 4 + int.from_bytes(data[:3], "little")
            bodies.append(data[4:end])
            data = data[end:]
        return bodies

    def ok(self) -> bytes:
        status, report = self.status, b""
        if self.tracks and self.changed:
            status |= _CHANGED
            report = b"\x00\x03\x02\x011"
        self.changed = False
        return b"\0\0\0" + struct.pack("<HH", status, 0) + report

    def end(self) -> bytes:
        return b"\xfe" + struct.pack("<HH", 0, self.status)

    def rows(self, *values: bytes) -> list[bytes]:
        column = b"".join(bytes([len(word)]) + word for word in (b"def", *[b""] * 3))
        column += b"\x01c\x01c\x0c" + struct.pack("<HIBHBH", 255, 80, 253, 0, 0, 0)
        return [
            *(b"\x01", column, self.end()),
            *(bytes([len(value)]) + value for value in values),
            self.end(),
        ]

    # The session

    def run(self) -> None:
        self.greet()
        while commands := self.read():
            self.server.said.append(commands)
            for command in commands:
                if command[0] == _QUIT:
                    return
                self.send(1, *self.answer(command[0], command[1:]))

    def greet(self) -> None:
        context = self.server.context
        capabilities = _CAPABILITIES | (0 if context is None else CLIENT.SSL)
        lower, upper = capabilities & 0xFFFF, capabilities >> 16
        self.send(
            0,
            b"\x0a" + VERSION + b"\0" + struct.pack("<I", 7) + SALT[:8] + b"\0"
            + struct.pack("<HBHHB", lower, 255, _AUTOCOMMIT, upper, len(SALT) + 1)
            + bytes(10) + SALT[8:] + b"\0caching_sha2_password\0",
        )  # fmt: skip
        number = 2
        if context is not None:
            # Not more than the request for TLS, which is followed by the handshake.
            self.sock.recv(_TLS_REQUEST)
            self.sock = context.wrap_socket(self.sock, server_side=True)
            number = 3
        (response,) = self.read()
        assert scramble_caching_sha2(PASSWORD, SALT) in response
        if self.server.remembers:
            self.send(number, b"\x01\x03", self.ok())
        elif context is not None:
            self.send(number, b"\x01\x04")
            self.server.passwords += self.read()
            self.send(number + 2, self.ok())
        else:
            self.ask_for_password()

    def ask_for_password(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.send(2, b"\x01\x04")
        assert self.read() == [b"\x02"]
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )
        self.send(4, b"\x01" + public)
        (encrypted,) = self.read()
        mgf = padding.MGF1(algorithm=hashes.SHA1())
        plain = key.decrypt(
            encrypted, padding.OAEP(mgf=mgf, algorithm=hashes.SHA1(), label=None)
        )
        self.server.passwords.append(
            bytes(byte ^ SALT[at % len(SALT)] for at, byte in enumerate(plain))
        )
        self.send(6, self.ok())

    def answer(self, command: int, text: bytes) -> list[bytes]:
        if command == _RESET:
            self.tracks = self.changed = False
            self.status = _AUTOCOMMIT
        elif command == _QUERY:
            return self.query(text)
        return [self.ok()]

    def query(self, text: bytes) -> list[bytes]:
        if text in self.server.hidden:
            self.changed = True
        if text.startswith(b"SET "):
            self.set(text[4:].split(b", "))
        elif text in (b"COMMIT", b"ROLLBACK"):
            self.status &= ~_IN_TRANS
        elif text.startswith(b"SELECT"):
            if not self.status & _AUTOCOMMIT:
                self.status |= _IN_TRANS
            if b"information_schema" in text:
                assert b"/*+ MAX_EXECUTION_TIME(1000) */" in text
                return self.rows(*[b"1"] * (b"privileges" in text))
            return self.rows(b"1")
        return [self.ok()]

    def set(self, settings: list[bytes]) -> None:
        for setting in settings:
            if setting == b"session_track_state_change=1":
                self.tracks, self.changed = True, False
            else:
                self.changed = True
            name, _, value = setting.partition(b"=")
            if name.strip().lower() == b"autocommit":
                self.status = _AUTOCOMMIT if value.strip() == b"1" else 0
