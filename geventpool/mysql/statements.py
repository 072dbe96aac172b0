"""Decides by the text of a statement whether it can leave anything in a session.

A statement counts as harmless only if that is certain; after any other statement the
session is reset. What the text does not show is learned from the server's replies, and
from the views and triggers that the statement may use; see
:mod:`geventpool.mysql.hidden`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "MARIADB",
    "MYSQL",
    "OLD_MYSQL",
    "PLAIN",
    "Effects",
    "Kind",
    "effects_of",
    "ends_transaction",
    "family",
    "is_harmless_body",
    "is_mariadb",
    "is_plain_query",
    "kind_of",
]

_BEGINNINGS = (
    *("SELECT", "INSERT", "UPDATE", "DELETE", "REPLAC", "BEGIN", "COMMIT", "ROLLBA"),
    *("SAVEPO", "RELEAS", "SHOW", "EXPLAI", "DESCRI"),
)

#: The first six letters, in upper case, of statements that can change nothing of a
#: session but its transaction, its user variables and its named locks. Any other
#: statement, such as SET, USE or CALL, may leave anything.
PLAIN = frozenset((*_BEGINNINGS, *(word.encode() for word in _BEGINNINGS)))

_ROLE = re.compile(rb"\bSET\s+ROLE\b", re.IGNORECASE)
_USE = re.compile(rb"\bUSE\b", re.IGNORECASE)

#: A function, a query, or another statement. Also in a literal.
_CALLS = re.compile(rb"[(;]|\bSTATEMENT\b", re.IGNORECASE)

_ENDS = re.compile(rb"\s*(?:COMMIT|ROLLBACK)\b", re.IGNORECASE)
_QUERIES = re.compile(rb"(?:SELECT|INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)

#: Only this many characters of a statement are searched.
_BEGINNING = 1000


#: Short statements of which the results are kept, and how many.
_SHORT = 2000
_MAX_KNOWN = 2000


class Effects(NamedTuple):
    """What a statement that is not plain may change, by its text alone.

    :ivar takes_role: it may set a role. COM_RESET_CONNECTION does not undo that.
    :ivar chooses_database: it may choose a database, which is not undone either.
    :ivar only_sets: it is a short SET statement.
    :ivar only_assigns: it is one that calls no function and runs no query.
    :ivar names_lock: its text contains LOCK.
    """

    takes_role: bool
    chooses_database: bool
    only_sets: bool
    only_assigns: bool
    names_lock: bool


_effects: dict[str | bytes, Effects] = {}


def effects_of(statement: str | bytes | bytearray) -> Effects:
    """Return what a statement may change. Never switches."""
    text = bytes(statement) if isinstance(statement, bytearray) else statement
    known = _effects.get(text)
    if known is not None:
        return known
    beginning = _beginning(text)
    is_short = len(text) <= _BEGINNING
    only_sets = is_short and beginning[:4].upper() == b"SET "
    whole = text.encode(errors="replace") if isinstance(text, str) else text
    effects = Effects(
        takes_role=_ROLE.search(beginning) is not None,
        chooses_database=_USE.search(beginning) is not None,
        only_sets=only_sets,
        only_assigns=only_sets and _CALLS.search(beginning) is None,
        names_lock=b"LOCK" in whole.upper(),
    )
    if len(text) <= _SHORT:
        if len(_effects) >= _MAX_KNOWN:
            _effects.clear()
        _effects[text] = effects
    return effects


def ends_transaction(statement: str | bytes | bytearray) -> bool:
    """Whether it is a COMMIT or a ROLLBACK."""
    return _ENDS.match(_beginning(statement)) is not None


def is_plain_query(statement: str | bytes | bytearray) -> bool:
    """Whether it plainly is a statement that runs nothing after it was killed.

    A procedure goes on with its next statement after a KILL QUERY.
    """
    return _QUERIES.match(_beginning(statement)) is not None


def _beginning(statement: str | bytes | bytearray) -> bytes:
    text = statement[:_BEGINNING]
    return text.encode(errors="replace") if isinstance(text, str) else bytes(text)


# Statements that leave nothing


# Numbers, because the hash of another enumeration's member is computed in Python.
class Kind(enum.IntEnum):
    """Kinds of statements that leave nothing in a session.

    This holds only if the views and triggers that they use leave nothing.
    """

    #: Reads; may use views.
    READ = 1
    #: Writes; may use views and triggers.
    WRITE = 2
    #: Begins or ends a transaction. The status of the session shows that.
    CONTROL = 3


def _words(text: str) -> frozenset[bytes]:
    return frozenset(word.encode() for word in text.split())


#: Keywords that may come before a parenthesis, with or without a space.
_KEYWORDS = _words("""
    SELECT DISTINCT FROM WHERE HAVING AND OR XOR NOT IN EXISTS ON USING BETWEEN LIKE IS
    BY AS THEN ELSE WHEN CASE UNION ALL INTERSECT EXCEPT JOIN OVER LIMIT ANY SOME BINARY
    VALUES VALUE INTERVAL REGEXP RLIKE DIV MATCH INDEX KEY PARTITION
    """)

#: Types, and functions without side effects. No space may come before the parenthesis:
#: with a space, some of these names may be stored functions.
_FUNCTIONS = _words("""
    CHAR VARCHAR DECIMAL NUMERIC SIGNED UNSIGNED DATETIME TIME

    COUNT SUM AVG MIN MAX STD STDDEV STDDEV_POP STDDEV_SAMP VARIANCE VAR_POP VAR_SAMP
    GROUP_CONCAT BIT_AND BIT_OR BIT_XOR

    COALESCE IFNULL NULLIF IF CAST CONVERT GREATEST LEAST CONCAT CONCAT_WS LOWER UPPER
    LENGTH CHAR_LENGTH LEFT RIGHT SUBSTRING SUBSTR REPLACE TRIM LTRIM RTRIM LPAD RPAD
    INSTR LOCATE REPEAT REVERSE ASCII ORD HEX UNHEX MD5 SHA1 SHA2
    JSON_EXTRACT JSON_UNQUOTE JSON_CONTAINS JSON_CONTAINS_PATH
    JSON_OBJECT JSON_ARRAY JSON_TYPE JSON_VALID
    ABS CEILING CEIL FLOOR ROUND TRUNCATE MOD POWER POW SQRT EXP LN LOG LOG2 LOG10 SIGN
    PI SIN COS TAN COT ASIN ACOS ATAN ATAN2 DEGREES RADIANS RAND
    NOW CURRENT_TIMESTAMP UTC_TIMESTAMP CURDATE CURRENT_DATE CURTIME DATE TIMESTAMP YEAR
    QUARTER MONTH WEEK WEEKDAY DAY DAYOFMONTH DAYOFWEEK DAYOFYEAR YEARWEEK HOUR MINUTE
    SECOND MICROSECOND EXTRACT DATE_FORMAT DATE_ADD DATE_SUB DATEDIFF TIMEDIFF
    TIMESTAMPDIFF TIMESTAMPADD TIME_TO_SEC TO_SECONDS MAKEDATE LAST_DAY CONVERT_TZ
    FROM_UNIXTIME UNIX_TIMESTAMP STR_TO_DATE TO_DAYS SEC_TO_TIME
    FIELD ELT FORMAT SUBSTRING_INDEX CRC32
    SLEEP UUID VERSION DATABASE USER CURRENT_USER CONNECTION_ID
    """)

#: Functions that MySQL 5.7 does not have. There, stored functions may have these names.
_LATER = _words("""
    ROW_NUMBER RANK DENSE_RANK PERCENT_RANK CUME_DIST NTILE LAG LEAD FIRST_VALUE
    LAST_VALUE NTH_VALUE REGEXP_REPLACE JSON_VALUE
    """)

#: The built-in functions of each family of servers.
MARIADB = _FUNCTIONS | _LATER
MYSQL = MARIADB | _words("REGEXP_LIKE")
OLD_MYSQL = _FUNCTIONS


def family(version: str) -> frozenset[bytes]:
    """Return the functions without side effects on a server of this version."""
    if is_mariadb(version):
        return MARIADB
    return MYSQL if _numbers(version) >= [8, 0, 21] else OLD_MYSQL


def is_mariadb(version: str, since: Sequence[int] = ()) -> bool:
    """Whether it is the version of a MariaDB.

    :param since: the first numbers of the oldest version for which this is true.
    """
    return "mariadb" in version.lower() and _numbers(version) >= [*since]


def _numbers(version: str) -> list[int]:
    # Before 11, MariaDB puts this before its version, for old replicas.
    version = version.removeprefix("5.5.5-")
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


#: Quoted names, of which the first quote is kept, and literals, which are removed. If a
#: literal does not end, its quote is kept. Each text has one reading only, or the time
#: would grow exponentially.
_QUOTED = re.compile(rb"(`)[^`]*`|'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'|(').*", re.DOTALL)

#: Variables, comments (which may contain SQL), second statements, remaining quotes,
#: letters beyond ASCII, and two-part names that contain a space.
_STRANGE = re.compile(rb"[@;#\"'\\\x80-\xff]|--|/\*|\s\.|\.\s")

#: Words of statements that may leave something.
_HAZARDS = _words("""
    NEXT NEXTVAL SETVAL SQL_CALC_FOUND_ROWS RETURNING PROCEDURE CALL OUTFILE DUMPFILE
    """)

#: Replaces each character that cannot be part of a word by a space.
_APART = bytes(
    code if chr(code).isalnum() or code in b"_$" else 32 for code in range(128)
) + bytes(range(128, 256))

#: Replaces each character that cannot be part of a name (quoted, or of two parts) by a
#: space.
_NAMES = bytes(
    code if chr(code).isalnum() or code in b"_$.`" else 32 for code in range(128)
) + bytes(range(128, 256))

#: The second part of a full-text search. Elsewhere, it may be a stored function.
_AGAINST = re.compile(rb"\)\s*AGAINST$", re.IGNORECASE)

#: Longer than every known name.
_LONG_NAME = 80

#: The table, up to the parenthesis before the names of its columns.
_TARGET = re.compile(
    rb"(?:INSERT|REPLACE)\s+(?:(?:LOW_PRIORITY|HIGH_PRIORITY|IGNORE)\s+)*(?:INTO\s+)?"
    rb"(?:[\w$]+|`)(?:\.(?:[\w$]+|`))?\s*\(",
    re.IGNORECASE,
)

_READS = re.compile(
    rb"\(*\s*SELECT\b|(?:SHOW|EXPLAIN|DESCRIBE)\s"
    rb"|WITH\b(?!.*\b(?:INSERT|UPDATE|DELETE)\b)",
    re.IGNORECASE | re.DOTALL,
)
_WRITES = re.compile(rb"(?:INSERT|REPLACE|UPDATE|DELETE)\s", re.IGNORECASE)
_NAME = rb"(?:[\w$]+|`)"
_CONTROLS = re.compile(
    rb"(?:BEGIN|COMMIT|ROLLBACK)(?:\s+WORK)?|START\s+TRANSACTION[\w\s,]*"
    rb"|ROLLBACK(?:\s+WORK)?\s+TO(?:\s+SAVEPOINT)?\s+" + _NAME + rb"|(?:RELEASE\s+)?"
    rb"SAVEPOINT\s+" + _NAME + rb"|SET AUTOCOMMIT = [01]",
    re.IGNORECASE,
)

#: A cache of results by text, for statements that are repeated unchanged or with other
#: string values.
_known: dict[tuple[bytes, frozenset[bytes]], Kind | None] = {}


def kind_of(statement: bytes, functions: frozenset[bytes]) -> Kind | None:
    """Return the kind of a statement that leaves nothing; None: it may leave anything.

    :param statement: one statement with its values. In its charset, no byte of a
        character beyond ASCII is an ASCII byte. Quotes in strings are escaped by
        doubling or by a backslash.
    :param functions: of the server's :func:`family`.
    """
    try:
        return _known[statement, functions]
    except KeyError:
        pass
    bare = _bare(statement)
    try:
        kind = _known[bare, functions]
    except KeyError:
        kind = _kind_of(bare, functions)
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    for text in (statement, bare):
        if len(text) <= _SHORT:
            _known[text, functions] = kind
    return kind


def _kind_of(bare: bytes, functions: frozenset[bytes]) -> Kind | None:
    bare = bare.strip()
    if bare.endswith(b";"):
        bare = bare[:-1].rstrip()
    if _CONTROLS.fullmatch(bare):
        return Kind.CONTROL
    if _READS.match(bare):
        kind = Kind.READ
    elif _WRITES.match(bare):
        kind = Kind.WRITE
    else:
        return None
    target = _TARGET.match(bare)
    start = target.end() if target else 0
    return kind if _only_computes(bare, start, functions) else None


def _bare(text: bytes) -> bytes:
    """Remove literals, and replace each quoted name by one quote."""
    return _QUOTED.sub(rb"\1\2", text) if b"'" in text or b"`" in text else text


def _only_computes(bare: bytes, start: int, functions: frozenset[bytes]) -> bool:
    if _STRANGE.search(bare) or not _HAZARDS.isdisjoint(_split(bare)):
        return False
    *before, _ = bare[start:].split(b"(")
    for text in before:
        end = text.rstrip()
        word = end[-_LONG_NAME:].translate(_NAMES).rpartition(b" ")[2].upper()
        if word and word not in _KEYWORDS:
            # With a space before the parenthesis, it may be a stored function of that
            # name.
            is_function = len(end) == len(text) and word in functions
            if not is_function and not _AGAINST.search(end):
                return False
    return True


def _split(bare: bytes) -> list[bytes]:
    return bare.upper().translate(_APART).split()


def is_harmless_body(text: bytes, functions: frozenset[bytes]) -> bool:
    """Whether the text of a view or a trigger leaves nothing in a session.

    :param functions: of the server's :func:`family`.
    """
    return _only_computes(_bare(text).replace(b";", b" "), 0, functions)
