"""
Which statements can leave nothing behind in a session.

Looks at a statement as Django or the project has written it, with ``%s`` where the
values go: so it says the same of it each time, and no value is ever taken for SQL.
What it does not know for certain it does not vouch for.

It takes a view for a table: a view that calls a stored function which sets something in
the session is the one thing it cannot see.
"""

from __future__ import annotations

import re

__all__ = ["is_read"]

#: What may stand before a parenthesis: words of SQL, and functions that only compute.
#: Any other name may be a stored function, or one like GET_LOCK.
_WORDS = frozenset(
    """
    SELECT DISTINCT FROM WHERE HAVING AND OR XOR NOT IN EXISTS ON USING BETWEEN LIKE IS
    BY AS THEN ELSE WHEN CASE UNION ALL INTERSECT EXCEPT JOIN OVER LIMIT ANY SOME BINARY
    CHAR VARCHAR DECIMAL NUMERIC SIGNED UNSIGNED DATETIME TIME

    COUNT SUM AVG MIN MAX STD STDDEV STDDEV_POP STDDEV_SAMP VARIANCE VAR_POP VAR_SAMP
    GROUP_CONCAT BIT_AND BIT_OR BIT_XOR ROW_NUMBER RANK DENSE_RANK PERCENT_RANK
    CUME_DIST NTILE LAG LEAD FIRST_VALUE LAST_VALUE NTH_VALUE

    COALESCE IFNULL NULLIF IF CAST CONVERT GREATEST LEAST CONCAT CONCAT_WS LOWER UPPER
    LENGTH CHAR_LENGTH LEFT RIGHT SUBSTRING SUBSTR REPLACE TRIM LTRIM RTRIM LPAD RPAD
    INSTR LOCATE REPEAT REVERSE ASCII ORD HEX UNHEX MD5 SHA1 SHA2 REGEXP_LIKE
    REGEXP_REPLACE JSON_EXTRACT JSON_UNQUOTE JSON_CONTAINS JSON_CONTAINS_PATH JSON_VALUE
    JSON_OBJECT JSON_ARRAY JSON_TYPE JSON_VALID
    ABS CEILING CEIL FLOOR ROUND TRUNCATE MOD POWER POW SQRT EXP LN LOG LOG2 LOG10 SIGN
    PI SIN COS TAN COT ASIN ACOS ATAN ATAN2 DEGREES RADIANS RAND
    NOW CURRENT_TIMESTAMP UTC_TIMESTAMP CURDATE CURRENT_DATE CURTIME DATE TIMESTAMP YEAR
    QUARTER MONTH WEEK WEEKDAY DAY DAYOFMONTH DAYOFWEEK DAYOFYEAR YEARWEEK HOUR MINUTE
    SECOND MICROSECOND EXTRACT DATE_FORMAT DATE_ADD DATE_SUB DATEDIFF TIMEDIFF
    TIMESTAMPDIFF TIMESTAMPADD TIME_TO_SEC TO_SECONDS MAKEDATE LAST_DAY CONVERT_TZ
    FROM_UNIXTIME UNIX_TIMESTAMP STR_TO_DATE INTERVAL
    """.split()
)

_BEFORE_PARENTHESIS = re.compile(r"([\w$`.\"']+)\s*\(")
#: Variables, comments (which may hold SQL), a second statement, names in two pieces.
_STRANGE = re.compile(r"@|/\*|--|#|;|\s\.|\.\s")
_BEGINNINGS = ("SELECT ", "(SELECT ")

#: What does not end is not looked through to its end.
_LONGEST = 20_000
#: Statements of which it is known, by their text. ORMs repeat themselves.
_known: dict[str, bool] = {}
_MAX_KNOWN = 2000


def is_read(statement: object) -> bool:
    """
    Whether *statement* only reads, and calls nothing but functions that only compute.

    :param statement: as it is before the values are put in.
    """
    if not isinstance(statement, str):
        return False
    known = _known.get(statement)
    if known is None:
        if len(statement) > _LONGEST or not statement.startswith(_BEGINNINGS):
            return False
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        known = _known[statement] = _only_reads(statement)
    return known


def _only_reads(statement: str) -> bool:
    # In names MySQL knows letters that are none here.
    if not statement.isascii() or _STRANGE.search(statement):
        return False
    return all(
        name.upper() in _WORDS for name in _BEFORE_PARENTHESIS.findall(statement)
    )
