"""The page for people: one HTML text without external files.

It asks for the JSON once a second and keeps the last two minutes for its curves. Texts
from the JSON are put into text nodes only.
"""

from __future__ import annotations

__all__ = ["PAGE"]

#: ``@NONCE@`` and ``@SOURCE@`` are replaced at each request.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Connection pools</title>
<style nonce="@NONCE@">
:root { color-scheme: light dark; --ink: #1d2327; --paper: #f4f5f6; --card: #fff;
  --faint: #667078; --line: #d9dde0; --used: #2463b5; --idle: #9dc3ee;
  --other: #a77b1f; --bad: #b3261e; --good: #1f7a3f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7e9; --paper: #14181b;
  --card: #1e2429; --faint: #98a3ab; --line: #343c43; --used: #6ba4ec;
  --idle: #2f4d70; --other: #d3a84a; --bad: #f2877f; --good: #6cc68c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; }
h1 { font-size: 1.25rem; margin: 0; } h2 { font-size: 1.05rem; margin: 0;
  min-width: 0; overflow-wrap: anywhere; }
h3 { font-size: .85rem; margin: .9rem 0 .2rem; color: var(--faint); }
.faint { color: var(--faint); font-size: .85rem; }
#pools { display: grid; gap: 1rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .9rem; min-width: 0; }
.top { display: flex; justify-content: space-between; gap: .5rem; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.bar { display: flex; height: 12px; border-radius: 6px; overflow: hidden;
  background: var(--line); margin: .6rem 0 .3rem; }
.bar i { display: block; } .used { background: var(--used); }
.idle { background: var(--idle); } .other { background: var(--other); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(5.5rem, 1fr));
  gap: .3rem .6rem; margin: .5rem 0; }
dt { color: var(--faint); font-size: .75rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; font-size: 1.1rem; }
svg { width: 100%; height: 44px; display: block; }
polyline { fill: none; stroke: var(--used); stroke-width: 1.5; }
ul { margin: 0; padding: 0; list-style: none; }
li { border-top: 1px solid var(--line); padding: .25rem 0; font-size: .85rem;
  overflow-wrap: anywhere; }
code { font: .8rem ui-monospace, monospace; }
</style>
</head>
<body data-source="@SOURCE@">
<header><h1>Connection pools</h1><span id="state" class="faint">loading</span></header>
<main id="pools"></main>
<noscript>This page needs JavaScript. The same facts are in status.json.</noscript>
<script nonce="@NONCE@">
"use strict";
const KEPT = 120, history = new Map(), last = new Map();
function make(tag, name, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...children);
  return node;
}
function seconds(value) {
  if (value === null || value === undefined) return "\\u2013";
  if (value < 0.001) return (value * 1e6).toFixed(0) + " \\u00b5s";
  if (value < 1) return (value * 1e3).toFixed(1) + " ms";
  return value.toFixed(1) + " s";
}
function remember(name, key, value) {
  const id = name + "\\n" + key, points = history.get(id) || [];
  points.push(value);
  if (points.length > KEPT) points.shift();
  history.set(id, points);
  return points;
}
function curve(title, points, show) {
  const known = points.filter(point => point !== null);
  const top = Math.max(...known, 0), space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const line = document.createElementNS(space, "polyline");
  svg.setAttribute("viewBox", "0 0 " + (KEPT - 1) + " 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title + ", at most " + show(top));
  line.setAttribute("vector-effect", "non-scaling-stroke");
  line.setAttribute("points", points.map((point, index) =>
    (KEPT - points.length + index) + "," + (38 - 36 * (point || 0) / (top || 1))
  ).join(" "));
  svg.append(line);
  return [make("h3", "", title + " (at most " + show(top) + ")"), svg];
}
function list(title, rows) {
  if (!rows || !rows.length) return [];
  return [make("h3", "", title), make("ul", "", ...rows.map(
    row => make("li", "", ...row.map(each =>
      typeof each === "string" ? each : make("code", "", each.place)))))];
}
function bar(stats) {
  const node = make("div", "bar");
  const others = stats.opening + stats.checking + stats.resetting + stats.closing;
  const most = Math.max(stats.max_connections, stats.size, 1);
  for (const [kind, count] of
      [["used", stats.in_use], ["other", others], ["idle", stats.idle]]) {
    const part = make("i", kind);
    part.style.width = 100 * count / most + "%";
    node.append(part);
  }
  return node;
}
const SHOWN = ["in_use", "idle", "waiting", "opening", "checking", "resetting",
  "closing", "max_connections"];
function numbers(stats, shown = SHOWN) {
  const node = make("dl", "");
  for (const key of shown) {
    if (stats[key] === undefined) continue;
    node.append(make("div", "", make("dt", "", key.replace("_", " ")),
      make("dd", "", String(stats[key]))));
  }
  return node;
}
function card(pool) {
  const node = make("article", ""), stats = pool.stats;
  node.append(make("div", "top", make("h2", "", pool.name), make("span",
    pool.ready ? "good" : "bad", pool.ready ? "ready" : pool.reason)));
  node.append(make("div", "faint", pool.kind));
  if (!stats) {
    node.append(make("p", "bad", pool.error));
    return node;
  }
  node.append(bar(stats), numbers(stats));
  node.append(...curve("Waiting", remember(pool.name, "waiting", stats.waiting),
    value => String(value)));
  const wait = stats.measured && stats.measured.wait;
  if (wait && wait.p99 !== undefined) {
    node.append(...curve("Wait, 99th percentile",
      remember(pool.name, "p99", wait.p99), seconds));
  }
  if (pool.failure) {
    const lasting = pool.failure.lasting;
    node.append(...list("Last failure to open", [[pool.failure.error + ", " +
      seconds(pool.failure.seconds_ago) + " ago" + (lasting === null ? "" :
      "; no connection could be opened for " + seconds(lasting))]]));
  }
  node.append(...list("Leaks", (stats.leaks || []).map(leak =>
    [leak.open + " of " + leak.count + " still lent, from ",
      {place: leak.borrowed_at}, ", held for " + seconds(leak.longest) +
      ", holder at ", {place: leak.place}])));
  node.append(...list("Held while the connection is idle", (stats.idle_holds || []).map(
    hold => [Math.round(100 * hold.share) + " % of the time from ",
      {place: hold.borrowed_at}, " while it waits at ", {place: hold.waits_at}])));
  node.append(...list("Waits and uses by label", (stats.labels || []).map(
    each => [each.label + ": " + each.loans + " loans, " + each.refused +
      " refused, waited " + seconds(each.waited) + ", used " + seconds(each.used)])));
  node.append(...list("Oldest loans", (pool.loans || []).slice(0, 8).map(loan =>
    [seconds(loan.seconds) + " " + loan.holder + " at ", {place: loan.place}])));
  return node;
}
function budget(each) {
  const node = make("article", "");
  node.append(make("div", "top", make("h2", "", "Budget " + each.name),
    make("span", "", each.held + " of " + each.total)));
  node.append(make("div", "faint", "places of all processes of the host"));
  node.append(bar({in_use: each.held, idle: 0, opening: 0, checking: 0, resetting: 0,
    closing: 0, max_connections: each.total, size: each.held}));
  node.append(numbers({"waited for": each.waiting, moved: each.moved,
    recovered: each.recovered}, ["waited for", "moved", "recovered"]));
  node.append(...curve("Places moved in a second",
    changes("budget " + each.path, each.moved), value => String(value)));
  node.append(...list("Pools that share it", each.shares.map(share =>
    ["process " + share.pid + (share.name ? ", " + share.name : "") + ": " +
      share.held + " places" + (share.waiting ? ", waits for " + share.waiting : "") +
      (share.moved ? ", gave " + share.moved : "")])));
  return node;
}
function changes(name, total) {
  const before = last.get(name);
  last.set(name, total);
  return remember(name, "change", before === undefined ? 0 : total - before);
}
async function update() {
  const state = document.getElementById("state");
  try {
    const answer = await fetch(document.body.dataset.source, {cache: "no-store"});
    if (!answer.ok) throw new Error("status " + answer.status);
    const facts = await answer.json();
    document.getElementById("pools").replaceChildren(
      ...facts.pools.map(card), ...facts.budgets.map(budget));
    state.textContent = "process " + facts.process + ", " +
      new Date(facts.time * 1000).toLocaleTimeString() +
      (facts.pools.length ? "" : ", no pool is open");
    state.className = "faint";
  } catch (error) {
    state.textContent = "no answer: " + error.message;
    state.className = "bad";
  }
  setTimeout(update, document.hidden ? 5000 : 1000);
}
update();
</script>
</body>
</html>
"""
