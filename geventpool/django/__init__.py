"""Django on pooled connections: :mod:`geventpool.django.mysql`."""
