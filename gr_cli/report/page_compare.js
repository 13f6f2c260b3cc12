// --- two configurations, or single runs of them, side by side

const pair = { first: null, second: null };
const COMPARED = ["first-matrix", "second-matrix", "compare-chart"];
const subject = (text) => {
  const [index, seed] = text.split(":");
  const one = CONFIGURATIONS[Number(index)];
  return { one, seed, name: seed === undefined ? one.name : `${one.name}, seed ${seed}` };
};
const seedsOf = (one) => one.runs.filter(([, state]) => state === "finished").map(([seed]) => seed);
const subjects = () => CONFIGURATIONS.flatMap((one, index) => {
  const seeds = [...new Set(seedsOf(one))];
  const own = option(index, seeds.length > 1 ? `${one.name} (mean of ${seeds.length} seeds)` : one.name);
  return seeds.length > 1 ? [own, ...seeds.map((seed) => option(`${index}:${seed}`, `\u00a0\u00a0${one.name}, seed ${seed}`))] : [own];
});
const numberOf = ({ one, seed }, name) => {
  const values = one.metrics[name];
  return !values ? null : seed === undefined ? values.statistics[0] : values.seeds[seed] ?? null;
};
const signed = (number, percent) => (number > 0 ? "+" : "") + format(Number(number.toFixed(percent ? 2 : 6)), percent);
// Difference of a metric: paired over common seeds of two configurations, with Student's t interval from three seeds on.
const pairedText = (a, b, one) => {
  const percent = isPercent(one);
  if (a.seed !== undefined || b.seed !== undefined) {
    const [first, second] = [numberOf(a, one.name), numberOf(b, one.name)];
    return isNumber(first) && isNumber(second) ? signed(second - first, percent) : "–";
  }
  const [first, second] = [a, b].map((side) => side.one.metrics[one.name]?.seeds ?? {});
  const gaps = Object.keys(first).filter((seed) => isNumber(first[seed]) && isNumber(second[seed])).map((seed) => second[seed] - first[seed]);
  const n = gaps.length, mean = gaps.reduce((sum, gap) => sum + gap, 0) / n;
  if (!n) return "–";
  const half = DATA.t_quantiles[n - 2] * Math.sqrt(gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / (n - 1) / n);
  // Differences of values in [low, high] lie within the length of that range.
  const limit = isNumber(one.low) && isNumber(one.high) && one.low === 0 ? one.high : Infinity;
  const ends = [Math.max(mean - half, -limit), Math.min(mean + half, limit)].map((end) => signed(end, percent));
  return `${signed(mean, percent)}${n > 2 ? ` [${ends.join(", ")}]` : ""} (${n})`;
};
const plainTable = (caption, headers, rows) => make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
  make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, ...headers.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows.map(([head, ...cells]) => make("tr", {}, make("th", { scope: "row" }, head), ...cells.map((text) => make("td", {}, text)))))));
const matrixChart = (id, side) => new Chart(id, "heat", () => {
  const { one, seed } = subject(pair[side]), matrix = one.matrix;
  const cells = seed === undefined ? matrix?.mean : matrix?.seeds?.[seed];
  if (!cells) return null;
  const { rows, columns } = matrix;
  const drawn = rows.flatMap((row, i) => columns.map((column, j) => ({ row: `after ${row}`, column, share: (cells[i][j] ?? 0) / 100,
    label: isNumber(cells[i][j]) && columns.length <= 12 ? cells[i][j].toFixed(columns.length > 6 ? 0 : 1) : "",
    ink: cells[i][j] > 45 ? "black" : "white", detail: `after task ${row}, task ${column}`, text: `${format(cells[i][j], true)} %` }))).filter((row) => row.text !== "– %");
  return { rows: drawn, height: Math.max(60, Math.min(360, 30 * rows.length + 20)), font_size: 11, x_title: "task", y_title: null };
});
matrixChart("first-matrix", "first");
matrixChart("second-matrix", "second");
const comparedPick = { name: "evaluations", column: "accuracy", curve: "" };
new Chart("compare-chart", "lines", (chart) => {
  const from = family(comparedPick.name), column = from?.columns.find((one) => one.name === comparedPick.column);
  if (!column) return null;
  const rows = ["first", "second"].flatMap((side, i) => {
    const { one, seed, name } = subject(pair[side]);
    const points = one.curves[comparedPick.name]?.[comparedPick.column]?.[comparedPick.curve];
    // A seed may lack a table that others have.
    if (!points || (seed !== undefined && !points.seeds?.[seed])) return [];
    const own = seed === undefined ? points : { x: points.x, mean: points.seeds[seed] };
    return curveRows(own, one, { ...style(i), opacity: 1 }, from.x, column, true).map((row) => ({ ...row, name: `${"AB"[i]}: ${name}`, line: `${i}` }));
  });
  return lineChart(rows, chart, from.x, range(column), column.label);
});
const compare = () => {
  const [a, b] = [subject(pair.first), subject(pair.second)];
  const names = [...new Set([...Object.keys(a.one.settings), ...Object.keys(b.one.settings)])].sort();
  const different = names.filter((name) => a.one.settings[name] !== b.one.settings[name]);
  const total = new Set([...names, ...Object.keys(DATA.common)]).size;
  const settings = different.filter((name) => !name.endsWith("_target_")).map((name) => [name, a.one.settings[name], b.one.settings[name]]);
  const both = settings.filter(([, first, second]) => first !== undefined && second !== undefined);
  const single = settings.filter((row) => !both.includes(row)).map((row) => row.map((text) => text ?? "–"));
  const numbers = DATA.metrics.filter(({ name }) => isNumber(numberOf(a, name)) || isNumber(numberOf(b, name))).map((one) => {
    const percent = isPercent(one);
    return [one.label, format(numberOf(a, one.name), percent), format(numberOf(b, one.name), percent), pairedText(a, b, one)];
  });
  byId("differences").replaceChildren(
    make("p", {}, different.length ? `Their configurations differ in ${different.length} of ${total} settings.` : "Their configurations are the same."),
    make("div", { class: "pair" }, make("div", {}, plainTable("Metrics", ["", "A", "B", "B − A"], numbers),
      make("p", { class: "note" }, a.seed === undefined && b.seed === undefined ? "B − A: mean over the seeds that both have (their number), with 95 % t interval from three on."
        : "B − A: difference of two single values, which says little about the methods.")),
      make("div", {}, both.length ? plainTable("Settings that differ", ["", "A", "B"], both) : null,
        single.length ? make("details", { open: !both.length }, make("summary", {}, `Settings that only one has (${single.length})`), plainTable("Settings that only one has", ["", "A", "B"], single)) : null)));
  byId("first-name").textContent = `A: ${a.name}`;
  byId("second-name").textContent = `B: ${b.name}`;
  slider(byId("compare-task"), byId("compare-samples"), () => [a.one, b.one]);
  return Promise.all(COMPARED.map((id) => charts.get(id).draw()));
};
const startCompare = () => {
  if (CONFIGURATIONS.length === 0) return;
  const order = shown(), second = order[1] ?? order[0] ?? CONFIGURATIONS[0], first = order[0] ?? CONFIGURATIONS[0];
  const seeds = seedsOf(first);
  pair.first = String(indexOf.get(first));
  pair.second = first === second && seeds.length > 1 ? `${pair.first}:${seeds[0]}` : String(indexOf.get(second));
  for (const side of ["first", "second"]) {
    choose(byId(side), subjects(), pair[side]);
    byId(side).addEventListener("change", () => { pair[side] = byId(side).value; compare(); });
  }
  const controls = byId("compare-controls");
  controls.append(menu("Curves of", DATA.families.map((one) => [one.name, one.title]), (name) => { comparedPick.name = name; menus(); charts.get("compare-chart").draw(); }));
  const menus = () => familyMenus(byId("compare"), comparedPick, () => charts.get("compare-chart").draw(), controls);
  menus();
};

// --- the table

const order = { column: null, down: true };
// At first only the metrics of the report, and settings in which configurations differ beyond their names.
const constant = (i) => new Set(CONFIGURATIONS.map((one) => one.cells[i])).size < 2;
const hidden = new Set([
  ...DATA.metrics.filter(({ name }) => !DATA.shown_metrics.includes(name)).map(({ name }) => `metric ${name}`),
  ...costs.filter((name) => name.startsWith("parameters") || DATA.metrics.some(({ label }) => label === name)).map((name) => `cost ${name}`),
  ...DATA.columns.filter((label, i) => constant(i) || DATA.in_names.includes(label)).map((label) => `setting ${label}`),
]);
const columns = () => [
  ...DATA.metrics.flatMap((each, i) => [
    { id: `metric ${each.name}`, head: each.label, number: true, key: (one) => value(one, each.name) ?? null,
      text: (one) => (one.metrics[each.name] ? format(value(one, each.name), isPercent(each)) : "–"),
      small: (one) => { const all = one.metrics[each.name]?.statistics; return all && isNumber(all[1]) ? spread(all, isPercent(each)).replace(/^\S+ /, "") : null; } },
    ...(i === 0 && CONFIGURATIONS.some((one) => one.difference.text !== "–" && one.difference.text !== "baseline")
      ? [{ id: "difference", head: `paired difference in ${each.label.replace("(%)", "(points)")}`, number: true, text: (one) => one.difference.text, key: (one) => one.difference.value,
          small: (one) => (one.difference.p === null ? null : `${DATA.p_value} ${one.difference.p}`) }] : []),
  ]),
  { id: "n", head: "seeds", text: (one) => (one.n === one.of ? `${one.n}` : `${one.n} of ${one.of}`), key: (one) => one.n, number: true },
  ...costs.map((name) => ({ id: `cost ${name}`, head: name, number: true, key: (one) => one.costs[name]?.statistics[0] ?? null, text: (one) => format(one.costs[name]?.statistics[0]) })),
  ...DATA.columns.map((label, i) => ({ id: `setting ${label}`, head: label, text: (one) => one.cells[i],
    key: (one) => (Number.isFinite(Number(one.cells[i])) && one.cells[i] !== "" ? Number(one.cells[i]) : one.cells[i]) })),
  { id: "row", head: "row", text: (one) => String(indexOf.get(one) + 1), key: (one) => indexOf.get(one), number: true },
];
// Numbers before texts; missing ones last in either direction.
const ordered = (all, { key }, down) => [...all].sort((one, two) => {
  const [a, b] = [key(one), key(two)];
  if (a === null || b === null) return (a === null) - (b === null);
  if (isNumber(a) !== isNumber(b)) return isNumber(a) ? -1 : 1;
  return (down ? -1 : 1) * (isNumber(a) ? a - b : a.localeCompare(b));
});
const drawTable = () => {
  const table = document.querySelector("table.all"), looks = styles();
  const all = columns(), visible = all.filter(({ id }) => !hidden.has(id));
  const sorted = all.find(({ id }) => id === order.column);
  const rows = sorted ? ordered(shown(), sorted, order.down) : shown();
  const heading = (column) => make("th", { scope: "col", class: column.number ? "n" : null, "aria-sort": order.column === column.id ? (order.down ? "descending" : "ascending") : "none" },
    make("button", { type: "button", "data-column": column.id, onclick: () => {
      order.down = order.column === column.id ? !order.down : Boolean(column.number);
      order.column = column.id;
      drawTable();
      document.querySelector(`button[data-column="${CSS.escape(column.id)}"]`)?.focus();
    } }, column.head.replaceAll("_", "_\u200b")));
  table.replaceChildren(make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "configuration"), ...visible.map(heading))),
    make("tbody", {}, ...rows.map((one) => make("tr", { class: state.chosen.has(one) ? "chosen" : null },
      make("th", { scope: "row" }, make("label", {}, make("input", { type: "checkbox", checked: state.chosen.has(one), onchange: () => toggle(one) }), " ", sign(looks.get(one)), ` ${one.name}`)),
      ...visible.map((column) => make("td", { class: column.number ? "n" : null }, column.text(one), column.small?.(one) ? make("small", {}, column.small(one)) : null))))));
  byId("matches").textContent = state.terms.length ? `${rows.length} of ${CONFIGURATIONS.filter((one) => one.comparable === state.comparable).length}` : "";
  byId("clear").hidden = !state.chosen.size;
};
const drawColumns = () => byId("columns").replaceChildren(...columns().map(({ id, head }) => make("label", {},
  make("input", { type: "checkbox", checked: !hidden.has(id), onchange: (event) => { hidden[event.target.checked ? "delete" : "add"](id); drawTable(); } }), ` ${head}`)));

// --- everything together

const drawLegend = () => {
  const looks = styles(), all = shown(), focus = focused();
  const listed = all.length <= 24 ? all : focus;
  const buttons = listed.map((one) => make("button", { type: "button", "aria-pressed": String(state.chosen.has(one)), onclick: () => toggle(one) }, sign(looks.get(one)), one.name));
  const more = all.length > 30 ? make("button", { type: "button", onclick: () => { state.all = !state.all; charts.get("dots").draw(); drawLegend(); } },
    state.all ? "Show the best 25" : `Show all ${all.length}`) : null;
  byId("legend").replaceChildren(...buttons, ...(more ? [more] : []));
};
const tell = () => (byId("verdict").textContent = DATA.verdicts[state.comparable]?.[DATA.metrics.indexOf(metric())] ?? "");
const linked = () => [...charts].filter(([id]) => !COMPARED.includes(id)).map(([, chart]) => chart);
const toggle = (one) => {
  if (!state.chosen.delete(one)) state.chosen.add(one);
  restyle();
};
const restyle = () => {
  drawLegend();
  drawTable();
  drawSamples();
  return Promise.all(linked().map((chart) => chart.restyle()));
};
const redraw = () => {
  tell();
  drawLegend();
  drawTable();
  drawSamples();
  return Promise.all(linked().map((chart) => chart.draw()));
};
const details = (one, index) => make("details", { ontoggle: (event) => {
  if (!event.target.open || event.target !== event.currentTarget || event.target.dataset.drawn) return;
  event.target.dataset.drawn = true;
  const rows = one.runs.map(([seed, state, command, folder]) => make("tr", {}, make("td", { class: "n" }, seed), make("td", { class: state }, state),
    make("td", { class: "n" }, format(one.metrics[DATA.metrics[0].name]?.seeds[seed], isPercent(DATA.metrics[0]))),
    make("td", {}, make("code", {}, command), " ", make("button", { type: "button", class: "copy", onclick: copy }, "copy")), make("td", {}, make("code", {}, folder))));
  const settings = Object.entries({ ...DATA.common, ...one.settings }).sort(([a], [b]) => (a < b ? -1 : 1));
  event.target.append(
    ...one.warnings.map((text) => make("p", { class: "note" }, text)),
    make("div", { class: "scroll", tabindex: 0 }, make("table", {}, make("thead", {}, make("tr", {}, ...["seed", "state", DATA.metrics[0].label, "command that repeats it", "folder"].map((text) => make("th", { scope: "col" }, text)))), make("tbody", {}, ...rows))),
    make("details", {}, make("summary", {}, "Settings"), plainTable("All settings", ["setting", "value"], settings)));
} }, make("summary", {}, `${one.name}${one.warnings.length ? " (see notes)" : ""}`));
const copy = async (event) => {
  const code = event.target.previousElementSibling;
  try {
    await navigator.clipboard.writeText(code.textContent);
    event.target.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(code); // browsers may deny a page from a file access to the clipboard
  }
};
const start = async () => {
  choose(byId("metric"), DATA.metrics.map(({ name, label }) => option(name, label)), state.metric);
  byId("metric").addEventListener("change", () => { state.metric = byId("metric").value; redraw(); });
  choose(byId("comparable"), DATA.comparables.map((name, i) => option(i, name)), String(state.comparable));
  byId("comparable-label").hidden = DATA.comparables.length < 2;
  byId("comparable").addEventListener("change", () => { state.comparable = Number(byId("comparable").value); state.chosen.clear(); redraw(); });
  byId("filter").addEventListener("input", () => { state.terms = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean); redraw(); });
  byId("clear").addEventListener("click", () => { state.chosen.clear(); restyle(); });
  if (costs.length > 1) byId("costs").querySelector(".controls").append(menu("Cost", costs.map((name) => [name, name]), (name) => { cost.name = name; charts.get("cost-chart").draw(); }));
  const total = CONFIGURATIONS.length, best = `the best ${DATA.metrics[0].label}`, left = [];
  if (DATA.detailed < total) left.push(`Curves of single tasks and classes, matrices and confusion: of the ${DATA.detailed} configurations with ${best} only.`);
  if (DATA.pictures_left_out) left.push(`Pictures of generated samples: of the ${DATA.illustrated} configurations with ${best} only.`);
  document.querySelector(".footnotes").append(...left.map((text) => make("li", {}, text)));
  drawColumns();
  setMenus();
  byId("configurations").append(...CONFIGURATIONS.map(details));
  startCompare();
  await redraw();
  if (CONFIGURATIONS.length) await compare();
  // Sections without values are left out.
  for (const section of document.querySelectorAll("main section"))
    section.hidden = section.id === "compare" ? subjects().length < 2
      : section.dataset.rows === "0" && !section.querySelector("[data-drawn]") && section.id !== "best";
  document.querySelector("nav").append(...[...document.querySelectorAll("main section:not([hidden])")].map((section) => make("a", { href: `#${section.id}` }, section.dataset.title)));
  await Promise.all([...charts.values()].map((chart) => chart.view?.runAsync()));
  root.dataset.ready = document.querySelectorAll("[data-drawn]").length;
};
// Charts as wide as the paper, so that their texts keep their size.
const fitCharts = (printed) => {
  root.classList.toggle("printed", printed);
  for (const chart of charts.values()) if (chart.view && chart.rows.length && chart.node.clientWidth) chart.view.width(chart.node.clientWidth).run();
};
addEventListener("beforeprint", () => fitCharts(true));
addEventListener("afterprint", () => fitCharts(false));
start();
