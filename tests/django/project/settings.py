"""Settings of the project.

The environment says where its database is (``DATABASE``) and how its pool is to be
(``POOL``), both as JSON.
"""

import json
import os

DATABASES = {
    "default": {
        "ENGINE": "geventpool.django.mysql",
        "OPTIONS": {
            "ssl_disabled": True,
            "pool": json.loads(os.environ.get("POOL", "true")),
        },
        **json.loads(os.environ.get("DATABASE", "{}")),
    }
}
INSTALLED_APPS = ["tests.django.project"]
ROOT_URLCONF = "tests.django.project.urls"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ALLOWED_HOSTS = ["*"]
SECRET_KEY = "known to everybody"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
# The loggers of the program that runs this are not ours to set up.
LOGGING_CONFIG = None
