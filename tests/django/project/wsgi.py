"""What gunicorn serves."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django.project.settings")
application = get_wsgi_application()

if os.environ.get("ASK_EARLY"):
    # As an application does that looks something up while it is loaded.
    from tests.django.project.models import Account

    Account.objects.count()
