"""One limit on the connections of all processes of a host."""

from geventpool.budget.budget import Budget, BudgetShare, BudgetStats

__all__ = ["Budget", "BudgetShare", "BudgetStats"]
