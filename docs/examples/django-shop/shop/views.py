"""The pages of the shop."""

import redis
from django.core.cache import cache, caches
from django.db import connection, transaction
from django.http import HttpResponse, JsonResponse
from django.urls import path

from shop.models import Order


def buy(request, article):
    """Use the database, both caches, and the session."""
    with transaction.atomic():
        order = Order.objects.create(article=article)
    request.session["orders"] = [*request.session.get("orders", []), order.id]
    cache.get_or_set(f"sold:{article}", 0, timeout=None)
    page = f"{article}: {cache.incr(f'sold:{article}')} sold"
    caches["pages"].set(article, page)
    return HttpResponse(page)


def orders(request):
    """List the orders of the session."""
    return JsonResponse(request.session.get("orders", []), safe=False)


def connections(request):
    """Tell how many connections the servers have counted."""
    with connection.cursor() as cursor:
        # Without further privileges, an account sees its own connections here.
        cursor.execute("SELECT COUNT(*) FROM information_schema.processlist")
        (mysql,) = cursor.fetchone()
    client = redis.Redis(connection_pool=cache.pools[0])
    names = [each["name"] for each in client.client_list()]
    return JsonResponse(
        {"mysql": mysql, "cache": names.count("cache"), "pages": names.count("pages")}
    )


urlpatterns = [
    path("buy/<article>", buy),
    path("orders", orders),
    path("connections", connections),
]
