"""One view that reads, one that moves money, and two that go wrong half-way."""

from django.db import connection, transaction
from django.db.models import F
from django.http import JsonResponse

from tests.django.project.models import Account


def balance(request, number):
    """The money of one account, and the connection that told us."""
    account = Account.objects.get(number=number)
    thread_id = connection.connection.thread_id()
    return JsonResponse({"balance": account.balance, "connection": thread_id})


def transfer(request, giver, taker, amount):
    """Move money; in a fixed order, for two transfers must not wait for each other."""
    with transaction.atomic():
        numbers = sorted((giver, taker))
        locked = Account.objects.select_for_update().order_by("number")
        list(locked.filter(number__in=numbers))
        Account.objects.filter(number=giver).update(balance=F("balance") - amount)
        Account.objects.filter(number=taker).update(balance=F("balance") + amount)
    return JsonResponse({"moved": amount})


def fail(request, number):
    """Take money away, and fall over it."""
    with transaction.atomic():
        Account.objects.filter(number=number).update(balance=0)
        raise RuntimeError("on purpose")


def abandon(request, number):
    """Take money away in a transaction that nobody ends."""
    transaction.set_autocommit(False)
    Account.objects.filter(number=number).update(balance=0)
    return JsonResponse({})
