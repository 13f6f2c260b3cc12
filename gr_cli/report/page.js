"use strict";
// State, colours, charts with zoom and numbers. Everything from a run's folder is text or data, never markup or code.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SPECS = JSON.parse(document.getElementById("specs").textContent);
const CONFIGURATIONS = DATA.configurations;
const byId = (id) => document.getElementById(id);
const root = document.documentElement;
const note = (message) => (root.dataset.errors = `${root.dataset.errors ?? ""}${message}; `);
addEventListener("error", (event) => note(event.message));
addEventListener("unhandledrejection", (event) => note(event.reason));

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
};
const option = (value, text) => make("option", { value }, text);
const choose = (select, options, value) => {
  select.replaceChildren(...options);
  if (value !== undefined) select.value = value;
};
const menu = (label, options, onchange) => {
  const select = make("select", { onchange: () => onchange(select.value) });
  choose(select, options.map(([value, text]) => option(value, text)));
  return make("label", {}, label, select);
};
const isNumber = (value) => typeof value === "number";
// Numbers of 100,000 and more as 1.234 M.
const compact = (value) => {
  const power = Math.abs(value) < 1e5 ? 0 : Math.min(5, Math.floor(Math.log10(Math.abs(value)) / 3));
  return power ? `${Number((value / 1000 ** power).toPrecision(4))} ${" kMGTP"[power]}` : String(value);
};
const format = (value, percent) =>
  !isNumber(value) ? "–" : (percent ? value.toFixed(2) : compact(value)).replace("-", "−");
const spread = ([mean, low, high], percent) =>
  format(mean, percent) + (isNumber(low) ? ` [${format(low, percent)}, ${format(high, percent)}]` : "");

// --- state

const sizes = DATA.comparables.map((_, i) => CONFIGURATIONS.filter((one) => one.comparable === i).length);
const state = { metric: DATA.metrics[0]?.name, comparable: sizes.indexOf(Math.max(...sizes)), chosen: new Set(), terms: [], all: false };
const metric = (name = state.metric) => DATA.metrics.find((one) => one.name === name);
const isPercent = (one) => one?.unit === "fraction" || one?.percent === true;
const value = (configuration, name = state.metric) => configuration.metrics[name]?.statistics[0];
const matching = (configuration) => {
  const text = [configuration.name, ...configuration.cells].join(" ").toLowerCase();
  return state.terms.every((term) => text.includes(term));
};
// Configurations that the charts show: comparable ones that the filter leaves, the best first.
const shown = () => {
  const sign = metric()?.better === "lower" ? 1 : -1;
  const rank = (one) => (isNumber(value(one)) ? sign * value(one) : Infinity);
  return CONFIGURATIONS.filter((one) => one.comparable === state.comparable && matching(one)).sort(
    (a, b) => (rank(a) === rank(b) ? 0 : rank(a) - rank(b)));
};
const MANY = 10; // from more configurations on, only some are coloured
const MAX_BANDS = 4; // from more highlighted configurations on, bands would hide each other
const STRATEGY = DATA.columns.indexOf("strategy");
// Configurations with colours: the chosen ones, else all, of many the best of each strategy.
const focused = () => {
  const all = shown();
  const chosen = all.filter((one) => state.chosen.has(one));
  if (chosen.length || all.length <= MANY) return chosen.length ? chosen : all;
  const strategies = all.map((one) => one.cells[STRATEGY]);
  const best = all.filter((_, i) => strategies.indexOf(strategies[i]) === i);
  return (best.length > 1 ? best : all).slice(0, 6);
};

// --- colours and shapes

const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];
const DASHES = [[1, 0], [7, 3], [2, 2], [9, 2, 2, 2]]; // of lines, where colours repeat
const style = (index) => ({
  colour: `var(--c${index % 6})`,
  shape: SHAPES[(index + Math.floor(index / 6)) % 6],
  dash: DASHES[Math.floor(index / 6) % 4],
});
// Colour, shape and opacity by configuration.
const styles = () => {
  const all = shown(), focus = focused();
  const keep = all.length <= MANY;
  return new Map(all.map((one) => {
    const index = keep ? CONFIGURATIONS.filter((other) => other.comparable === one.comparable).indexOf(one) : focus.indexOf(one);
    const muted = !focus.includes(one);
    return [one, index < 0 ? { colour: "var(--muted)", shape: "circle", dash: DASHES[0], opacity: 0.35, muted } :
      { ...style(index), opacity: muted ? 0.2 : 1, muted }];
  }));
};
const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
// Line and mark of a configuration.
const sign = ({ colour, shape, dash }) => {
  const paths = { circle: "M6 1a5 5 0 1 0 .01 0z", square: "M2 2h8v8H2z", "triangle-up": "M6 1l5 10H1z",
    diamond: "M6 0l5 6-5 6-5-6z", cross: "M4 1h4v3h3v4H8v3H4V8H1V4h3z", "triangle-down": "M1 1h10L6 11z" };
  const picture = svg("svg", { viewBox: "-9 0 30 12", "aria-hidden": "true" });
  picture.append(svg("path", { d: "M-9 6H21", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash.join(" ") }),
    svg("path", { d: paths[shape], fill: colour }));
  return picture;
};

// --- charts

const fill = (spec, values) => {
  if (Array.isArray(spec)) return spec.map((item) => fill(item, values));
  if (spec && typeof spec === "object")
    return Object.fromEntries(Object.entries(spec).map(([key, item]) => [key, key === "$schema" ? item : fill(item, values)]));
  return typeof spec === "string" && spec.startsWith("$") ? values[spec.slice(1)] : spec;
};
// Limits of an axis around values, never outside of the possible range [low, high].
const limits = (values, low = null, high = null, full = false, logarithmic = false) => {
  const numbers = values.filter(isNumber);
  if (logarithmic && numbers.length) return [Math.min(...numbers) / 1.2, Math.max(...numbers) * 1.2];
  if (full && low !== null && high !== null) return [low, high];
  if (!numbers.length) return [low ?? 0, high ?? 1];
  let from = Math.min(...numbers), to = Math.max(...numbers);
  const pad = (to - from) * 0.05 || Math.abs(to) * 0.05 || 1;
  from = Math.max(from - pad, low ?? -Infinity);
  to = Math.min(to + pad, high ?? Infinity);
  return from < to ? [from, to] : [from - 1, to + 1];
};
// Whether numbers need a logarithmic axis.
const spansDecades = (numbers) => Math.min(...numbers) > 0 && Math.max(...numbers) / Math.min(...numbers) >= 20;
const charts = new Map();
class Chart {
  // `build` returns the values of the specification, or null where there is nothing to draw.
  constructor(id, kind, build) {
    this.host = byId(id);
    this.kind = kind;
    this.build = build;
    this.full = false;
    this.node = make("div");
    this.empty = make("p", { class: "empty" }, "No values.");
    this.numbers = make("details", { ontoggle: () => this.list() }, make("summary", {}, "The numbers"));
    this.fit = make("button", { type: "button", onclick: () => { this.full = !this.full; this.draw(); } });
    this.reset = make("button", { type: "button", hidden: true, onclick: () => this.zoom(this.home) }, "Reset zoom");
    this.caption = make("p", { class: "note" }); // what the numbers on the y axis are
    this.host.append(this.caption, this.node, this.empty, make("div", { class: "tools" }, this.fit, this.reset, this.numbers));
    this.host.addEventListener("keydown", (event) => this.key(event));
    this.node.addEventListener("pointerdown", (event) => this.drag(event));
    this.node.addEventListener("dblclick", () => this.zoom(this.home));
    charts.set(id, this);
  }
  get axes() { return this.kind === "heat" || this.kind === "parallel" ? [] : this.kind === "dots" ? ["x"] : ["x", "y"]; }
  async draw() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const values = this.build(this);
    this.rows = values?.rows ?? [];
    this.host.closest("section").dataset.rows = this.rows.length;
    this.empty.hidden = this.rows.length > 0;
    this.numbers.hidden = this.node.hidden = !this.rows.length;
    this.fit.hidden = !this.rows.length || !values.has_range;
    this.fit.textContent = this.full ? "Fit to the values" : "Full range";
    this.reset.hidden = true;
    this.caption.textContent = values?.caption ?? "";
    if (this.numbers.open) this.list();
    if (!this.rows.length) return;
    this.home = Object.fromEntries(["x0", "x1", "y0", "y1"].map((name) => [name, values[name] ?? 0]));
    const result = await vegaEmbed(this.node, fill(SPECS[this.kind], { height: 260, x_title: null, y_title: null, x_scale: "linear", x_format: "", ticks: Math.max(3, Math.floor(this.host.clientWidth / 110)), ...this.home, ...values }),
      { ast: true, logLevel: 1, renderer: "svg", actions: false, mode: "vega-lite", tooltip: { theme: "custom" } });
    if (turn !== this.turn) return result.view.finalize();
    this.view?.finalize();
    this.view = result.view;
    this.view.addEventListener("click", (_, item) => {
      const one = item?.datum && CONFIGURATIONS[item.datum.index];
      if (one && !this.dragged) toggle(one);
    });
    this.host.dataset.drawn = this.rows.length;
  }
  // Colours changed: the same marks with other rows.
  restyle() {
    if (!this.view || !this.rows.length) return this.draw();
    this.rows = this.build(this)?.rows ?? [];
    return this.view.data("rows", this.rows).runAsync();
  }
  zoom(to) {
    if (!this.view || !this.axes.length) return;
    for (const axis of this.axes)
      for (const end of ["0", "1"]) this.view.signal(axis + end, to[axis + end]);
    this.view.signal("zoomed", to !== this.home);
    this.reset.hidden = to === this.home;
    this.view.runAsync();
  }
  now() { return Object.fromEntries(Object.keys(this.home).map((name) => [name, this.view.signal(name)])); }
  key(event) {
    if (!this.view || event.target !== this.host || !this.axes.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { "+": 0.7, "=": 0.7, "-": 1 / 0.7 }[event.key];
    const move = { ArrowLeft: ["x", -1], ArrowRight: ["x", 1], ArrowDown: ["y", -1], ArrowUp: ["y", 1] }[event.key];
    const to = this.now();
    if (event.key === "0" || event.key === "Escape") { event.preventDefault(); return this.zoom(this.home); }
    if (!step && !(move && this.axes.includes(move[0]) && !this.reset.hidden)) return;
    event.preventDefault();
    for (const axis of step ? this.axes : [move[0]]) {
      const [low, high] = [this.home[`${axis}0`], this.home[`${axis}1`]];
      const size = Math.min((to[`${axis}1`] - to[`${axis}0`]) * (step ?? 1), high - low);
      const centre = (to[`${axis}0`] + to[`${axis}1`]) / 2 + (move ? move[1] * size * 0.2 : 0);
      const from = Math.min(Math.max(centre - size / 2, low), high - size);
      to[`${axis}0`] = from;
      to[`${axis}1`] = from + size;
    }
    this.zoom(to);
  }
  // Zoom to the rectangle that is drawn with a mouse or pen; a finger scrolls.
  drag(down) {
    this.dragged = false;
    if (!this.view || !this.axes.length || down.pointerType === "touch" || down.button !== 0) return;
    const box = this.node.querySelector("svg").getBoundingClientRect();
    const [left, top] = this.view.origin(), [width, height] = [this.view.width(), this.view.height()];
    const at = (event) => [
      Math.min(Math.max(event.clientX - box.left - left, 0), width),
      this.axes.includes("y") ? Math.min(Math.max(event.clientY - box.top - top, 0), height) : 0,
    ];
    const first = at(down), band = make("div", { class: "band" });
    const move = (event) => {
      const last = at(event), offset = this.host.getBoundingClientRect();
      this.dragged = this.dragged || Math.abs(last[0] - first[0]) > 5;
      if (!this.dragged) return;
      event.preventDefault();
      this.host.append(band);
      band.style.left = `${box.left - offset.left + left + Math.min(first[0], last[0])}px`;
      band.style.width = `${Math.abs(last[0] - first[0])}px`;
      band.style.top = `${box.top - offset.top + top + Math.min(first[1], last[1])}px`;
      band.style.height = this.axes.includes("y") ? `${Math.abs(last[1] - first[1])}px` : `${height}px`;
    };
    const up = (event) => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", up);
      band.remove();
      if (!this.dragged) return;
      const last = at(event), to = this.now();
      for (const [i, axis] of this.axes.entries()) {
        const ends = [first[i], last[i]].map((pixel) => this.view.scale(axis).invert(pixel)).sort((a, b) => a - b);
        if (Math.abs(first[i] - last[i]) > 5) [to[`${axis}0`], to[`${axis}1`]] = ends;
      }
      this.zoom(to);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", up);
  }
  // The rows of the chart as a table.
  list() {
    if (!this.numbers.open) return;
    const listed = this.rows.filter((row) => row.text !== undefined);
    const table = make("table", {}, make("tbody", {}, ...listed.slice(0, 2000).map((row) =>
      make("tr", {}, make("td", {}, row.name ?? ""), make("td", {}, row.detail ?? ""), make("td", { class: "n" }, row.text)))));
    this.numbers.querySelector("div")?.remove();
    this.numbers.append(make("div", { class: "scroll", tabindex: 0 }, table));
  }
}
