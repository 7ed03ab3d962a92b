"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const size = data.size, TOP = 12;
const fateOf = (step, node) => data.fates[step.fate[node]];
const escapeText = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const share = (logprob) => (logprob === null ? "–" : Math.exp(logprob).toPrecision(3));
const range = (count) => [...Array(count).keys()];

/* The drawing of one step. */
function pathSums(step, column) {
  const sums = [0];
  for (let node = 1; node < step.parent.length; node++)
    sums.push(sums[step.parent[node]] + (column[node] ?? 0));
  return sums;
}

/* Of the likeliest path. */
function sumOf(step, column) {
  return step.likeliest.reduce((sum, node) => sum + column[node], 0).toFixed(2);
}

function place(step, node) {
  return [size.margin + size.column * step.depth[node], TOP + size.row * step.row[node]];
}

function drawEdge(step, node, sums) {
  const [left, above] = place(step, step.parent[node]), [x2, below] = place(step, node);
  const x1 = left + size.width, y1 = above + size.height / 2, y2 = below + size.height / 2;
  const middle = (x1 + x2) / 2, width = (1 + 5 * Math.exp(sums[node])).toFixed(1);
  return `<path class="edge ${fateOf(step, node).name}" stroke-width="${width}" ` +
    `d="M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}"/>`;
}

function drawNode(step, node, chosen) {
  const [x, y] = place(step, node), fate = fateOf(step, node), half = size.height / 2, end = size.width;
  const body = fate.name === "bonus"
    ? `<path class="body" d="M0 ${half}L10 0H${end - 10}L${end} ${half}L${end - 10} ${size.height}H10Z"/>`
    : `<rect class="body" width="${end}" height="${size.height}" rx="9"/>`;
  const bars = [["draft", step.q[node], 23], ["target", step.p[node], 30]]
    .filter(([, logprob]) => logprob !== null)
    .map(([name, logprob, top]) => `<rect class="${name}" x="12" y="${top}" height="4" ` +
      `width="${Math.max(1, size.bar * Math.exp(logprob)).toFixed(1)}"/>`).join("");
  const around = 2 * Math.PI * 5, entropy = step.entropy[node];
  const circle = `cx="${end - 13}" cy="12" r="5"`;
  const ring = entropy === null ? "" : `<circle class="whole" ${circle}/><circle class="entropy" ${circle} ` +
    `transform="rotate(-90 ${end - 13} 12)" stroke-dasharray="${(around * Math.min(1, Math.max(0, entropy) / size.most_entropy)).toFixed(1)} ${around.toFixed(1)}"/>`;
  const about = `${data.whole[step.piece[node]]}, ${fate.name}: ${fate.meaning}, q ${share(step.q[node])}, ` +
    `p ${share(step.p[node])}`;
  return `<g class="${fate.name}${node === chosen ? " chosen" : ""}" transform="translate(${x} ${y})" ` +
    `tabindex="0" role="button" data-node="${node}" aria-label="${escapeText(about)}">${body}<text x="10" y="16">` +
    `<tspan class="glyph">${fate.glyph}${step.drawn.includes(node) ? "~" : ""}</tspan> ${escapeText(data.labels[step.piece[node]])}</text>${bars}${ring}</g>`;
}

function drawTree(step, chosen) {
  const nodes = range(step.parent.length), sums = pathSums(step, step.q);
  const width = 2 * size.margin + size.column * Math.max(...step.depth) + size.width + 6;
  const height = TOP + size.row * Math.max(...step.row) + size.height + size.margin;
  return `<svg xmlns="http://www.w3.org/2000/svg" class="tree" width="${width}" height="${height}" ` +
    `viewBox="0 0 ${width} ${height}">` + nodes.slice(1).map((node) => drawEdge(step, node, sums)).join("") +
    nodes.map((node) => drawNode(step, node, chosen)).join("") + "</svg>";
}

/* The figures of a request: rows of a name, a value and a bar from 0 to 1. */
function table(title, rows) {
  const lines = rows.map(([name, value, bar]) => `<tr><td>${name}</td><td>${value}</td><td>` +
    (bar === undefined ? "" : `<meter min="0" max="1" value="${bar}">${value}</meter>`) + "</td></tr>");
  return `<div><h2>${title}</h2><table>${lines.join("")}</table></div>`;
}

function drawTotals(totals) {
  const rate = (part) => part.accepted / part.tested;
  const line = (name, part) => [name, `${part.accepted} of ${part.tested}`, rate(part)];
  const times = Object.entries(totals.times), all = times.reduce((sum, [, ms]) => sum + ms, 0);
  const charts = [
    table("Steps", [["steps", totals.steps], ["tokens per step (τ)", ((totals.accepted + totals.steps) / totals.steps).toFixed(2)],
      ["drafted nodes", totals.drafted], ["accepted", totals.accepted],
      ["unreached (wasted)", totals.unreached, totals.drafted ? totals.unreached / totals.drafted : 0]]),
    table("Accepted, by depth", totals.by_depth.map((part, i) => line(`depth ${i + 1}`, part))),
    table("Accepted, by draft order", totals.by_place.map((part, i) => line(`sibling ${i + 1}`, part))),
    table("Target's probability that the tree covers", totals.mass_by_depth.map((mass, i) =>
      [`depth ${i + 1}`, mass.toFixed(3), mass])),
    table("Calibration: drafter's path probability, and share committed", totals.calibration.map((bin) =>
      [bin.expected.toFixed(2), `${(bin.accepted / bin.nodes).toFixed(2)} of ${bin.nodes}`, bin.accepted / bin.nodes])),
  ];
  if (times.length)
    charts.push(table("Time", times.map(([name, ms]) => [name.replace("_ms", ""), `${ms.toFixed(1)} ms`, ms / all])));
  return charts.join("");
}

/* Milliseconds of each step, one part on the other. */
function drawTimes(steps, wide) {
  const all = (step) => Object.values(step.ms).reduce((sum, ms) => sum + ms, 0), most = Math.max(...steps.map(all));
  return steps.map((step, i) => {
    let top = 24;
    return `<g><title>step ${i}: ${all(step).toFixed(1)} ms</title>` + Object.entries(step.ms).map(([name, ms]) => {
      const high = (24 * ms) / most;
      return `<rect class="${name}" x="${i * wide}" y="${(top -= high)}" width="${wide * 0.85}" height="${high}"/>`;
    }).join("") + "</g>";
  }).join("");
}

/* One request with its slider. */
class Pane {
  constructor(number, changed) {
    this.root = document.getElementById("pane").content.firstElementChild.cloneNode(true);
    this.changed = changed;
    this.find = (what) => this.root.querySelector(what);
    const select = this.find("select");
    data.requests.forEach((request, i) => select.add(new Option(request.title, i)));
    select.addEventListener("change", () => this.open(Number(select.value)));
    this.find("[type=range]").addEventListener("input", (event) => this.show(Number(event.target.value)));
    for (const strip of this.root.querySelectorAll(".strip, .times"))
      strip.addEventListener("click", (event) => {
        const box = event.currentTarget.getBoundingClientRect();
        this.show(Math.floor(((event.clientX - box.left) / box.width) * this.request.steps.length));
      });
    this.find("[type=search]").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target.value) this.seek(event.target.value);
    });
    this.find(".buttons").addEventListener("click", (event) => this.run(event.target.dataset.do));
    this.find(".text").addEventListener("click", (event) => {
      if (event.target.dataset.step) this.show(Number(event.target.dataset.step));
    });
    const canvas = this.find(".canvas");
    const pick = (event) => {
      const node = event.target.closest("[data-node]");
      if (node) this.choose(Number(node.dataset.node));
    };
    canvas.addEventListener("click", pick);
    canvas.addEventListener("focusin", pick);
    this.open(number);
  }

  open(number) {
    this.number = number;
    this.request = data.requests[number];
    this.find("select").value = number;
    this.find(".specs").textContent = Object.entries(this.request.specs).map(([k, v]) => `${k} ${v}`).join(" · ");
    this.find("[type=range]").max = this.request.steps.length - 1;
    const most = Math.max(...this.request.steps.map((step) => step.committed.length));
    const wide = 100 / this.request.steps.length;
    this.find(".strip").innerHTML = this.request.steps.map((step, i) => {
      const high = (24 * step.committed.length) / most;
      return `<rect x="${i * wide}" y="${24 - high}" width="${wide * 0.85}" height="${high}"/>`;
    }).join("");
    this.bars = [...this.find(".strip").children];
    this.find(".times").innerHTML = drawTimes(this.request.steps, wide);
    const token = (step, i, node) => `<span data-step="${i}" class="${fateOf(step, node).name}">` +
      `${escapeText(data.pieces[step.piece[node]])}</span>`;
    this.find(".text").innerHTML = token(this.request.steps[0], 0, 0) +
      this.request.steps.map((step, i) => step.committed.map((node) => token(step, i, node)).join("")).join("");
    this.spans = [...this.find(".text").children];
    this.find(".charts").innerHTML = drawTotals(this.request.totals);
    this.at = 0;
    this.show(0);
  }

  show(at, node = 0) {
    const last = this.request.steps.length - 1;
    at = Math.min(Math.max(at, 0), last);
    this.bars[this.at].classList.remove("on");
    this.at = at;
    this.bars[at].classList.add("on");
    const step = this.request.steps[at];
    this.find("[type=range]").value = at;
    this.find(".canvas").innerHTML = drawTree(step, node);
    const ms = Object.entries(step.ms).map(([name, value]) => `${name.replace("_ms", "")} ${value.toFixed(1)}`);
    this.find(".about").textContent = [
      `step ${at} of 0–${last}`, step.length === null ? "" : `L ${step.length}`, `${step.parent.length} nodes`,
      `depth ${Math.max(...step.depth)}`, `${step.committed.length} committed`, ms.length ? `${ms.join(", ")} ms` : "",
    ].filter(Boolean).join(" · ");
    const pieces = (nodes) => nodes.map((one) => data.whole[step.piece[one]]).join("");
    this.find(".likeliest").textContent = step.likeliest.length
      ? `drafter's likeliest path: ${pieces(step.likeliest)} · log q ${sumOf(step, step.q)} · log p ${sumOf(step, step.p)}` : "";
    for (const span of this.spans) {
      const of = Number(span.dataset.step);
      span.classList.toggle("later", of > at);
      span.classList.toggle("now", of === at && span !== this.spans[0]);
    }
    this.choose(node);
  }

  choose(node) {
    const step = this.request.steps[this.at];
    this.node = Math.min(Math.max(node, 0), step.parent.length - 1);
    node = this.node;
    this.find(".canvas .chosen")?.classList.remove("chosen");
    this.find(`.canvas [data-node="${node}"]`)?.classList.add("chosen");
    const fate = fateOf(step, node), log = (value) => (value === null ? "–" : value <= -1e4 ? "−∞" : value.toFixed(3));
    const rows = [
      ["token", `${data.whole[step.piece[node]]} (id ${step.token[node]})`],
      ["fate", `${fate.glyph} ${fate.name}: ${fate.meaning}`],
      ["drafter q", `${share(step.q[node])} (log ${log(step.q[node])})`],
      ["target p", `${share(step.p[node])} (log ${log(step.p[node])})`],
      ["target's rank", step.rank[node] === null ? "–" : `${step.rank[node] + 1}`],
      ["path, log q", log(pathSums(step, step.q)[node])],
      ["path, log p", log(pathSums(step, step.p)[node])],
      ["drafted as", step.q[node] === null ? "–" : `sibling ${step.place[node] + 1}, depth ${step.depth[node]}` +
        (step.drawn.includes(node) ? ", drawn by chance" : "")],
      ["accepted with probability", step.coin[node] === null ? "–" : step.coin[node].toFixed(3)],
      ["target goes on with", step.top[node].map((piece, i) => `${data.whole[piece]} ${share(step.top_p[node][i])}`).join("\n") || "–"],
      ["target's entropy", step.entropy[node] === null ? "–" : `${step.entropy[node].toFixed(2)} nats`],
    ];
    this.find(".node").innerHTML = rows.map(([name, value]) => `<dt>${name}</dt><dd>${escapeText(value)}</dd>`).join("");
    this.changed();
  }

  jump(wanted) {
    const next = this.request.steps.findIndex((step, i) => i > this.at && wanted(step));
    if (next >= 0) this.show(next);
  }

  seek(text) {
    const has = (step, node) => data.pieces[step.piece[node]].includes(text) || data.whole[step.piece[node]].includes(text);
    const find = (step) => range(step.parent.length).findIndex((node) => node && has(step, node));
    const next = this.request.steps.findIndex((step, i) => i > this.at && find(step) > 0);
    if (next >= 0) this.show(next, find(this.request.steps[next]));
    this.find("[type=search]").setCustomValidity(next < 0 ? "no later step has this token" : "");
    this.find("[type=search]").reportValidity();
  }

  run(what) {
    const names = (step) => step.fate.map((fate) => data.fates[fate].name);
    const actions = {
      first: () => this.show(0),
      back: () => this.show(this.at - 1),
      next: () => this.show(this.at + 1),
      last: () => this.show(this.request.steps.length - 1),
      play: () => this.play(),
      rejection: () => this.jump((step) => step.parent.length > 2 && step.committed.length === 1),
      perfect: () => this.jump((step) => step.committed.length > 1 &&
        step.committed.length === Math.max(...step.depth) && !names(step).includes("rejected")),
      save: () => this.save(),
    };
    actions[what]?.();
  }

  play() {
    const button = this.find('[data-do="play"]');
    if (this.timer) {
      clearInterval(this.timer);
      this.timer = null;
    } else {
      this.timer = setInterval(() => {
        if (this.at === this.request.steps.length - 1) this.play();
        else this.show(this.at + 1);
      }, 600);
    }
    button.setAttribute("aria-pressed", String(Boolean(this.timer)));
  }

  save() {
    const svg = this.find(".canvas svg").cloneNode(true), style = document.createElementNS(svg.namespaceURI, "style");
    style.textContent = document.getElementById("tree-style").textContent;
    svg.prepend(style);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(svg)], { type: "image/svg+xml" }));
    link.download = `request-${this.request.number}-step-${this.at}.svg`;
    link.click();
    URL.revokeObjectURL(link.href);
  }
}

/* The page: one pane or two, and the address that says where one is. */
const HAS_ADDRESS = location.protocol !== "about:"; // a notebook's frame has none
const panes = [], home = document.getElementById("panes");
function keepAddress() {
  const pane = panes[0];
  if (pane && HAS_ADDRESS) history.replaceState(null, "", `#request=${pane.request.number}&step=${pane.at}&node=${pane.node}`);
}
function add(number) {
  const pane = new Pane(number, keepAddress);
  panes.push(pane);
  home.append(pane.root);
  return pane;
}
function followAddress() {
  const given = new URLSearchParams(location.hash.slice(1)), pane = panes[0];
  const number = data.requests.findIndex((request) => request.number === Number(given.get("request")));
  if (number > 0 && number !== pane.number) pane.open(number);
  if (given.get("step")) pane.show(Number(given.get("step")), Number(given.get("node") ?? 0));
}
const address = location.hash;
add(0);
if (HAS_ADDRESS) history.replaceState(null, "", address || "#");
followAddress();
window.addEventListener("hashchange", followAddress);

const compare = document.getElementById("compare");
compare.hidden = data.requests.length < 2;
compare.addEventListener("click", () => {
  if (panes.length > 1) panes.pop().root.remove();
  else add((panes[0].number + 1) % data.requests.length);
  home.classList.toggle("two", panes.length > 1);
  compare.setAttribute("aria-pressed", String(panes.length > 1));
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, select")) return;
  event.preventDefault();
  (panes.find((one) => one.root.contains(event.target)) ?? panes[0]).find("[type=search]").focus();
});
const KEYS = { ArrowLeft: "back", ArrowRight: "next", Home: "first", End: "last", " ": "play", n: "rejection" };
document.addEventListener("keydown", (event) => {
  const inControl = event.target.closest("button, select, input, summary");
  if (event.altKey || event.ctrlKey || event.metaKey || !(event.key in KEYS)) return;
  if (inControl && !(event.key === "n" && inControl.tagName === "BUTTON")) return;
  event.preventDefault();
  const pane = panes.find((one) => one.root.contains(event.target)) ?? panes[0];
  pane.run(KEYS[event.key]);
});
