"""Accounts, between which money moves and is never lost."""

from django.db import models


class Account(models.Model):
    """Somebody's money."""

    number = models.IntegerField(unique=True)
    balance = models.IntegerField(default=100)
    opened = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "project_account"
