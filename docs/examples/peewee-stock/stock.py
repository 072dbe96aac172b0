"""A stock of articles: a web API in Flask, with models of peewee's."""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402

import click  # noqa: E402
import gevent  # noqa: E402
import peewee  # noqa: E402
from flask import Flask, abort, g, jsonify  # noqa: E402

from geventpool import PoolError  # noqa: E402
from geventpool.peewee import PooledMySQLDatabase  # noqa: E402

#: Seconds that a request may take.
LIMIT = float(os.environ.get("REQUEST_LIMIT", "5"))

db = PooledMySQLDatabase(
    os.environ.get("MYSQL_DATABASE", "shop"),
    host=os.environ.get("MYSQL_HOST", "127.0.0.1"),
    port=int(os.environ.get("MYSQL_PORT", "3306")),
    user=os.environ.get("MYSQL_USER", "shop"),
    password=os.environ.get("MYSQL_PASSWORD", ""),
    max_connections=4,
)
app = Flask(__name__)


class TooSlow(Exception):
    """The request has taken longer than the limit."""


class Article(peewee.Model):
    """What is there to be taken."""

    name = peewee.CharField(40, primary_key=True)
    left = peewee.IntegerField()

    class Meta:
        """Where it is."""

        database = db


class Order(peewee.Model):
    """What was taken."""

    article = peewee.ForeignKeyField(Article)

    class Meta:
        """Where it is."""

        database = db
        table_name = "orders"


@app.before_request
def begin():
    """Borrow a connection for this request, within its limit."""
    g.limit = gevent.Timeout.start_new(LIMIT, TooSlow)
    db.connect()


@app.teardown_request
def end(error):
    """Give the connection back; the pool cancels a statement that was interrupted."""
    g.limit.close()
    db.close()


@app.errorhandler(TooSlow)
@app.errorhandler(PoolError)
@app.errorhandler(peewee.OperationalError)
def try_later(error):
    """Tell the client that the database is slow or away."""
    return jsonify(error=type(error).__name__), 503, {"Retry-After": "1"}


@app.get("/take/<name>")
def take(name):
    """Take one article from the stock."""
    with db.atomic():
        there = (Article.name == name) & (Article.left > 0)
        if not Article.update(left=Article.left - 1).where(there).execute():
            abort(404)
        order = Order.create(article=name)
    return jsonify(order=order.id)


@app.get("/stock")
def stock():
    """List the articles and the number of orders."""
    return jsonify(
        left=dict(Article.select(Article.name, Article.left).tuples()),
        orders=Order.select().count(),
    )


@app.get("/connections")
def connections():
    """Tell how many connections the server has counted."""
    # Without further privileges, an account sees its own connections here.
    query = "SELECT COUNT(*) FROM information_schema.processlist"
    return jsonify(mysql=db.execute_sql(query).fetchone()[0])


@app.cli.command("fill")
@click.argument("name")
@click.argument("number", type=int)
def fill(name, number):
    """Put articles into the stock: flask --app stock fill tea 1000."""
    with db.connection_context():
        db.create_tables([Article, Order])
        Article.replace(name=name, left=number).execute()
