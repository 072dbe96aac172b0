"""Tables that tell whether they were changed."""

from __future__ import annotations

import pytest

from geventpool.mysql.converters import Converters

CHANGES = {
    "set": lambda table: table.__setitem__(1, "other"),
    "delete": lambda table: table.__delitem__(1),
    "merge": lambda table: table.__ior__({2: "b"}),
    "clear": lambda table: table.clear(),
    "pop": lambda table: table.pop(1),
    "popitem": lambda table: table.popitem(),
    "setdefault": lambda table: table.setdefault(2, "b"),
    "update": lambda table: table.update({2: "b"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_way_to_change_a_table_is_noted(name):
    """No method of a dict changes the table unseen."""
    table, plain = Converters({1: "a"}), {1: "a"}
    CHANGES[name](table)
    CHANGES[name](plain)
    assert table.touched
    assert table == plain


def test_reading_a_table_leaves_it_untouched():
    """What PyMySQL does with a table is no change."""
    table = Converters({1: "a"})
    assert table.get(1) == "a" and table[1] == "a" and list(table) == [1]
    assert not table.touched
