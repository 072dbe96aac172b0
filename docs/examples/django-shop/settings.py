"""The settings: one pool for MySQL and one for each Redis cache, in each process."""

import os

DATABASES = {
    "default": {
        "ENGINE": "geventpool.django.mysql",
        "OPTIONS": {"pool": {"max_connections": 4}},
        "HOST": os.environ.get("MYSQL_HOST", "127.0.0.1"),
        "PORT": os.environ.get("MYSQL_PORT", "3306"),
        "NAME": os.environ.get("MYSQL_DATABASE", "shop"),
        "USER": os.environ.get("MYSQL_USER", "shop"),
        "PASSWORD": os.environ.get("MYSQL_PASSWORD", ""),
    }
}

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
CACHES = {
    # Django's own cache, with one pool for all greenlets.
    "default": {
        "BACKEND": "geventpool.django.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": {"max_connections": 4, "client_name": "cache"},
    },
    # The package django-redis has one pool for each URL. It only needs the class.
    "pages": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": {
            "CONNECTION_POOL_CLASS": "geventpool.redis.ConnectionPool",
            "CONNECTION_POOL_KWARGS": {"max_connections": 4, "client_name": "pages"},
        },
    },
}
# Sessions are in the default cache, and use its pool.
SESSION_ENGINE = "django.contrib.sessions.backends.cache"

INSTALLED_APPS = ["django.contrib.sessions", "shop"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
ROOT_URLCONF = "shop.views"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ALLOWED_HOSTS = ["*"]
SECRET_KEY = os.environ.get("SECRET_KEY", "for the example only")
