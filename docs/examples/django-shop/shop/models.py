"""The table of the shop."""

from django.db import models


class Order(models.Model):
    """What a customer has bought."""

    article = models.CharField(max_length=40)
