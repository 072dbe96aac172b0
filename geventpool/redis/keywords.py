"""The keywords of ``geventpool.redis.ConnectionPool`` for type checkers.

redis-py does not list its keywords in one place. These are the keywords of its
connections and pools, of all supported versions. At run time, a connection class of
your own may take others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from geventpool.options import AdapterKeywords

if TYPE_CHECKING:
    from geventpool.redis.autopipeline import AutoPipeline

__all__ = ["RedisKeywords", "RedisPyKeywords"]


class RedisPyKeywords(TypedDict, total=False):
    """What redis-py's connections and pools take."""

    # Where the server is, and how to log in.
    host: str
    port: int | str
    path: str
    db: int | str
    username: str | None
    password: str | None
    credential_provider: Any
    client_name: str | None
    lib_name: str | None
    lib_version: str | None
    driver_info: Any
    protocol: int | str | None
    legacy_responses: bool
    # Time limits, retries, checks.
    socket_timeout: float | None
    socket_connect_timeout: float | None
    retry: Any
    retry_on_timeout: bool
    retry_on_error: Any
    health_check_interval: float
    # Sockets.
    socket_keepalive: bool | None
    socket_keepalive_options: Mapping[int, int | bytes] | None
    socket_type: int
    socket_read_size: int
    # Text and bytes.
    encoding: str
    encoding_errors: str
    decode_responses: bool
    parser_class: Any
    command_packer: Any
    # TLS.
    ssl_keyfile: str | None
    ssl_certfile: str | None
    ssl_password: str | None
    ssl_cert_reqs: Any
    ssl_include_verify_flags: Any
    ssl_exclude_verify_flags: Any
    ssl_ca_certs: str | None
    ssl_ca_path: str | None
    ssl_ca_data: str | bytes | None
    ssl_check_hostname: bool
    ssl_validate_ocsp: bool
    ssl_validate_ocsp_stapled: bool
    ssl_ocsp_context: Any
    ssl_ocsp_expected_cert: Any
    ssl_min_version: Any
    ssl_ciphers: str | None
    # What redis-py's own objects give to each other.
    redis_connect_func: Callable[..., Any] | None
    event_dispatcher: Any
    cache: Any
    cache_config: Any
    cache_factory: Any
    connection_pool: Any
    queue_class: Any
    maint_notifications_config: Any
    maint_notifications_pool_handler: Any
    maintenance_state: Any
    maintenance_notification_hash: int | None
    orig_host_address: str | None
    orig_socket_timeout: float | None
    orig_socket_connect_timeout: float | None
    oss_cluster_maint_notifications_handler: Any
    himport_registry: Any


class RedisKeywords(AdapterKeywords, RedisPyKeywords, total=False):
    """What the pool takes beside its own parameters: its options and redis-py's."""

    unpatched: str
    auto_pipeline: bool | int | AutoPipeline
    max_in_flight: int
