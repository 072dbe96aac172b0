"""Suggest a pool size by measuring a server: ``python -m geventpool advise``.

``command`` reads the arguments and prints the result, ``servers`` talks to the server,
``load`` measures one pool size, and ``sizing`` draws the conclusion.
"""
