"""Pools behind proxies that operators put before servers: haproxy and twemproxy."""
