"""A chat server: gunicorn -k gevent -w 1 chat:app.

Several of them share their users through Redis.
"""

import os

import gevent
import socketio

import geventpool.socketio

manager = geventpool.socketio.RedisManager(
    os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
    redis_options={"max_connections": 5, "client_name": "chat"},
)
server = socketio.Server(async_mode="gevent", client_manager=manager)
app = socketio.WSGIApp(server)


@server.event
def say(session, texts):
    """Send each text to all users, those of other servers included."""
    for text in texts:
        gevent.spawn(server.emit, "said", text)
