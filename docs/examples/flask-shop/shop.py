"""A shop in Flask. All extensions share one Redis pool, and SQLAlchemy has another."""

import os

import redis
from flask import Flask, jsonify, session
from flask_caching import Cache
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_session import Session
from flask_sqlalchemy import SQLAlchemy

import geventpool.redis
from geventpool.sqlalchemy import GreenletPool

pool = geventpool.redis.ConnectionPool.from_url(
    os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
    max_connections=4,
    client_name="shop",
)
client = redis.Redis(connection_pool=pool)

app = Flask(__name__)
app.config.update(
    SQLALCHEMY_DATABASE_URI=os.environ.get(
        "DATABASE_URL", "mysql+pymysql://shop@127.0.0.1/shop"
    ),
    SQLALCHEMY_ENGINE_OPTIONS={
        "poolclass": GreenletPool,
        "pool_size": 4,
        "max_overflow": 0,
    },
    CACHE_TYPE="RedisCache",
    CACHE_REDIS_HOST=client,
    SESSION_TYPE="redis",
    SESSION_REDIS=client,
)
db = SQLAlchemy(app)
cache = Cache(app)
Session(app)
limiter = Limiter(
    get_remote_address,
    app=app,
    storage_uri="redis://",
    storage_options={"connection_pool": pool},
)


class Order(db.Model):
    """What a customer has bought."""

    id = db.Column(db.Integer, primary_key=True)
    article = db.Column(db.String(40))


@app.cli.command("create-tables")
def create_tables():
    """Make the tables: flask --app shop create-tables."""
    db.create_all()


@app.get("/buy/<article>")
@limiter.limit("10000/minute")
def buy(article):
    """Use the database, the limiter and the session."""
    order = Order(article=article)
    db.session.add(order)
    db.session.commit()
    session["orders"] = [*session.get("orders", []), order.id]
    client.incr(f"sold:{article}")
    return f"{article}: {sold(article)} sold"


@cache.memoize(timeout=1)
def sold(article):
    """Return the number of sales, at most a second old."""
    return int(client.get(f"sold:{article}"))


@app.get("/orders")
def orders():
    """List the orders of the session."""
    return jsonify(session.get("orders", []))


@app.get("/slow")
def slow():
    """Hold a connection to the database for half a second."""
    db.session.execute(db.text("SELECT SLEEP(0.5)"))
    return "done"


@app.get("/connections")
def connections():
    """Tell how many connections the servers have counted."""
    # Without further privileges, an account sees its own connections here.
    query = db.text("SELECT COUNT(*) FROM information_schema.processlist")
    names = [each["name"] for each in client.client_list()]
    return jsonify(mysql=db.session.scalar(query), redis=names.count("shop"))
