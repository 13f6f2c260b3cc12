// --- rows of charts

const family = (name) => DATA.families.find((one) => one.name === name);
const indexOf = new Map(CONFIGURATIONS.map((one, index) => [one, index]));
const range = (column) => [column?.low ?? null, column?.high ?? null];
// Rows of curves: means with intervals, and seeds as points below three seeds.
const curveRows = (curve, one, look, x, column, bands) => {
  const rows = [], percent = isPercent(column), line = indexOf.get(one);
  const base = { index: indexOf.get(one), name: one.name, line, colour: look.colour, shape: look.shape, dash: look.dash, opacity: look.opacity };
  const where = (i) => `${x} ${curve.x[i]}`;
  curve.x.forEach((at, i) => {
    const statistics = [curve.mean[i], curve.low?.[i], curve.high?.[i]];
    const band = bands && !look.muted ? { low: statistics[1], high: statistics[2] } : {};
    rows.push({ ...base, x: at, mean: statistics[0], dot: look.muted ? undefined : statistics[0], ...band, detail: where(i), text: spread(statistics, percent) });
  });
  if (!curve.low && curve.seeds && !look.muted)
    for (const [seed, values] of Object.entries(curve.seeds))
      values.forEach((value, i) => isNumber(value) && rows.push({ ...base, x: curve.x[i], value, detail: `seed ${seed}, ${where(i)}`, text: format(value, percent) }));
  return rows;
};
const lineChart = (rows, chart, x, [low, high], caption) => {
  if (!rows.length) return null;
  const [x0, x1] = limits(rows.map((row) => row.x), null, null);
  const [y0, y1] = limits(rows.flatMap((row) => [row.mean, row.low, row.high, row.value]), low, high, chart.full);
  return { rows, x0, x1, y0, y1, x_title: x, caption, has_range: low !== null && high !== null };
};
const familyChart = (id, pick) => new Chart(id, "lines", (chart) => {
  const { name, column: columnName, curve } = pick();
  const from = family(name), column = from?.columns.find((one) => one.name === columnName);
  if (!column) return null;
  const looks = styles();
  // Muted ones first, so that they lie below.
  const all = shown().sort((a, b) => looks.get(b).muted - looks.get(a).muted);
  const bands = focused().length <= MAX_BANDS;
  const rows = all.flatMap((one) => {
    const points = one.curves[name]?.[columnName]?.[curve];
    return points ? curveRows(points, one, looks.get(one), from.x, column, bands) : [];
  });
  return lineChart(rows, chart, from.x, range(column), column.label);
});
// Menus for column and curve of a family beside its chart.
const familyMenus = (section, picked, redraw, controls = section.querySelector(".controls")) => {
  const from = family(picked.name);
  controls.querySelectorAll("[data-family]").forEach((element) => element.remove());
  if (!from) return;
  const add = (label, options, key) => {
    if (options.length < 2) return;
    const element = menu(label, options, (choice) => { picked[key] = choice; describe(); redraw(); });
    element.dataset.family = true;
    element.querySelector("select").value = picked[key];
    controls.append(element);
  };
  if (!from.columns.some((column) => column.name === picked.column)) picked.column = from.columns[0].name;
  if (!from.curves.includes(picked.curve)) picked.curve = from.curves.includes(from.summary) ? from.summary : from.curves[0];
  add("Measure", from.columns.map((column) => [column.name, column.label]), "column");
  add("Of", from.curves.map((curve) => [curve, curve]), "curve");
  const describe = () => {
    const column = from.columns.find((one) => one.name === picked.column), text = section.querySelector(".note");
    const better = { higher: "higher is better", lower: "lower is better" }[column.better];
    if (text) text.textContent = [column.meaning, better].filter(Boolean).join("; ");
  };
  describe();
};

// --- results

new Chart("dots", "dots", (chart) => {
  const looks = styles(), percent = isPercent(metric());
  let all = shown().filter((one) => one.metrics[state.metric]);
  if (!state.all && all.length > 30) {
    const focus = new Set([...all.slice(0, 25), ...focused()]);
    all = all.filter((one) => focus.has(one));
  }
  const rows = all.flatMap((one) => {
    const { statistics, seeds } = one.metrics[state.metric], look = looks.get(one), entries = Object.entries(seeds);
    const base = { index: indexOf.get(one), name: one.name, colour: look.colour, opacity: look.opacity };
    const mean = { ...base, mean: statistics[0], low: statistics[1], high: statistics[2], text: spread(statistics, percent),
      detail: entries.length === 1 ? `seed ${entries[0][0]}` : `mean of ${entries.length} seeds` };
    const chance = state.metric === "average_accuracy" ? one.metrics.chance_accuracy?.statistics[0] : undefined;
    const guesses = chance === undefined ? [] : [{ ...base, chance, detail: "random chance", text: format(chance, percent) }];
    return [mean, ...guesses, ...entries.map(([seed, value]) => ({ ...base, value, shape: look.shape, detail: `seed ${seed}`, text: format(value, percent) }))];
  });
  const [low, high] = range(metric());
  const [x0, x1] = limits(rows.flatMap((row) => [row.mean, row.low, row.high, row.value]), low, high, chart.full);
  const inside = rows.filter(({ chance }) => chance === undefined || (x0 <= chance && chance <= x1));
  return { rows: inside, x0, x1, names: all.map((one) => one.name), height: all.length * (all.length > 15 ? 17 : 26),
    label_length: Math.floor(Math.max(90, Math.min(420, chart.host.clientWidth * 0.45)) / 6.5), has_range: low !== null && high !== null };
});
const accuracyPick = { name: "evaluations", column: "accuracy", curve: "" };
const forgettingPick = { name: "forgetting", column: "forgetting", curve: "by task" };
const qualityPick = { name: "sample_quality", column: "label_agreement", curve: "" };
const leakPick = { name: "membership", column: "solver_auc", curve: "" };
const lossPick = { name: "history", column: "", curve: "loss" };
const measuredPick = { name: "", column: "", curve: "" };
familyChart("accuracy-chart", () => accuracyPick);
familyChart("forgetting-chart", () => forgettingPick);
familyChart("quality-chart", () => qualityPick);
familyChart("membership-chart", () => leakPick);
familyChart("loss-chart", () => lossPick);
familyChart("measured-chart", () => measuredPick);
const others = DATA.families.filter((one) => !["evaluations", "forgetting", "sample_quality", "membership", "history"].includes(one.name));
const setMenus = () => {
  const sections = [["over-tasks", accuracyPick, "accuracy-chart"], ["forgotten", forgettingPick, "forgetting-chart"],
    ["generator", qualityPick, "quality-chart"],
    ["membership", leakPick, "membership-chart"], ["training", lossPick, "loss-chart"]];
  for (const [id, pick, chart] of sections) familyMenus(byId(id), pick, () => charts.get(chart).draw());
  const section = byId("measured");
  measuredPick.name = others[0]?.name ?? "";
  if (others.length > 1)
    section.querySelector(".controls").append(menu("Table", others.map((one) => [one.name, one.title]), (name) => {
      measuredPick.name = name;
      familyMenus(section, measuredPick, () => charts.get("measured-chart").draw());
      charts.get("measured-chart").draw();
    }));
  if (others.length) familyMenus(section, measuredPick, () => charts.get("measured-chart").draw());
};

// --- samples: a slider over tasks

const sampleTasks = (configurations) =>
  [...new Set(configurations.flatMap((one) => Object.keys(one.samples?.after ?? {}).map(Number)))].sort((a, b) => a - b);
const picture = (one, task) => {
  const data = one.samples?.after[task];
  return make("figure", {}, data
    ? make("img", { src: `data:image/webp;base64,${data}`, alt: `Generated samples of ${one.name} after task ${task}, seed ${one.samples.seed}` })
    : make("p", { class: "missing" }, one.samples ? "none after this task" : "no pictures"),
  make("figcaption", {}, `${one.name}${one.samples ? `, seed ${one.samples.seed}` : ""}`));
};
const slider = (controls, target, configurations) => {
  const all = configurations(), tasks = sampleTasks(all);
  controls.replaceChildren();
  target.replaceChildren();
  target.closest("section").dataset.rows ??= 0;
  if (!tasks.length) return 0;
  const output = make("output"), input = make("input", { type: "range", min: 0, max: tasks.length - 1, value: tasks.length - 1, step: 1 });
  const show = () => {
    const task = tasks[input.value];
    output.textContent = `task ${task}`;
    input.setAttribute("aria-valuetext", `after task ${task}`);
    target.replaceChildren(...all.map((one) => picture(one, task)));
  };
  input.addEventListener("input", show);
  controls.append(make("label", {}, "After", input), output);
  show();
  return tasks.length;
};
const drawSamples = () => {
  const section = byId("samples");
  const illustrated = shown().filter((one) => one.samples), focus = focused().filter((one) => one.samples);
  section.dataset.rows = slider(section.querySelector(".controls"), section.querySelector(".samples"), () =>
    (focus.length ? focus : illustrated).slice(0, 8));
};

// --- settings and costs

const measured = () => shown().filter((one) => isNumber(value(one)));
const ABSENT = "–"; // in cells of configurations without the setting
const textsOf = (i) => [...new Set(measured().map((one) => one.cells[i]))];
const varying = () => DATA.columns.map((label, i) => ({ label, i })).filter(({ i }) => textsOf(i).length > 1);
// Whether all values of a setting are numbers, where there are some.
const numeric = (texts) => {
  const present = texts.filter((text) => text !== ABSENT);
  return present.length > 0 && present.every((text) => text !== "" && Number.isFinite(Number(text)));
};
// Positions in [0, 1] of the values of a setting: numbers by value, on a logarithmic scale if they span decades; below
// them, apart, configurations without the setting.
const positions = (texts) => {
  const all = [...new Set(texts)];
  if (!numeric(all)) return { at: new Map(all.map((name, i) => [name, all.length > 1 ? i / (all.length - 1) : 0.5])), names: all };
  const names = all.filter((text) => text !== ABSENT).sort((a, b) => a - b), absent = names.length < all.length;
  const numbers = names.map(Number), logarithmic = spansDecades(numbers);
  const scaled = numbers.map((number) => (logarithmic ? Math.log(number) : number));
  const low = Math.min(...scaled), size = Math.max(...scaled) - low || 1, least = absent ? 0.2 : 0;
  const at = new Map(names.map((name, i) => [name, least + ((1 - least) * (scaled[i] - low)) / size]));
  return absent ? { at: at.set(ABSENT, 0), names: [ABSENT, ...names] } : { at, names };
};
new Chart("parallel", "parallel", (chart) => {
  const axes = varying(), all = measured();
  if (axes.length < 2 || all.length < 3) return null;
  const looks = styles(), percent = isPercent(metric()), rows = [];
  const means = all.map((one) => value(one)), [low, high] = [Math.min(...means), Math.max(...means)];
  const share = (one) => (value(one) - low) / (high - low || 1);
  const chosen = all.some((one) => state.chosen.has(one));
  for (const { label, i } of axes) {
    const { at, names } = positions(all.map((one) => one.cells[i]));
    const ticks = names.length <= 12 ? names : [names[0], names[names.length - 1]];
    for (const name of ticks) rows.push({ axis: label, tick_position: at.get(name), tick: name });
    for (const one of all) rows.push({ axis: label, position: at.get(one.cells[i]), one, text: one.cells[i] });
  }
  for (const [position, text] of [[0, low], [1, high]]) rows.push({ axis: metric().label, tick_position: position, tick: format(text, percent) });
  for (const one of all) rows.push({ axis: metric().label, position: share(one), one, text: format(value(one), percent) });
  const lines = rows.map(({ one, ...row }) => !one ? row : { ...row, index: indexOf.get(one), line: indexOf.get(one), name: one.name, detail: row.axis,
    share: share(one), width: state.chosen.has(one) ? 4 : 1.5, opacity: chosen && looks.get(one).muted ? 0.15 : 0.85 });
  return { rows: lines, x0: 0, x1: 1, y0: -0.04, y1: 1.04, height: 280, caption: "A line per configuration, coloured by the metric on the last axis.", label_limit: Math.max(30, chart.host.clientWidth / (axes.length + 1) - 14) };
});
const points = (x, all, looks, chart, title) => {
  const percent = isPercent(metric());
  const rows = all.flatMap((one) => {
    const { statistics, seeds } = one.metrics[state.metric], look = looks.get(one);
    const base = { index: indexOf.get(one), name: one.name, x: x(one), colour: look.colour, shape: look.shape, opacity: look.opacity };
    const mean = { ...base, mean: statistics[0], low: statistics[1], high: statistics[2], detail: `${title} ${format(x(one))}`, text: spread(statistics, percent) };
    const few = !isNumber(statistics[1]) && Object.keys(seeds).length > 1;
    return [mean, ...(few ? Object.entries(seeds).map(([seed, value]) => ({ ...base, value, detail: `seed ${seed}`, text: format(value, percent) })) : [])];
  });
  const numbers = all.map(x), logarithmic = spansDecades(numbers), values = lineChart(rows, chart, title, range(metric()), metric().label);
  if (!values) return null;
  const [x0, x1] = limits(numbers, logarithmic ? null : Math.min(0, ...numbers), null, false, logarithmic);
  return { ...values, x0, x1, x_scale: logarithmic ? "log" : "linear", x_format: Math.max(...numbers) >= 1e5 ? ".4~s" : ".6~g" };
};
const swept = { column: null };
new Chart("sweep", "scatter", (chart) => {
  const numbersOf = (i) => textsOf(i).filter((text) => text !== ABSENT);
  const columns = varying().filter(({ i }) => numeric(textsOf(i)) && numbersOf(i).length > 1);
  columns.sort((a, b) => numbersOf(b.i).length - numbersOf(a.i).length); // at first the one with most values
  const controls = byId("settings").querySelector(".controls");
  const column = columns.find(({ label }) => label === swept.column) ?? columns[0];
  controls.replaceChildren();
  if (!column) return null;
  swept.column = column.label;
  if (columns.length > 1) {
    const element = menu("Setting", columns.map(({ label }) => [label, label]), (label) => { swept.column = label; chart.draw(); });
    element.querySelector("select").value = column.label;
    controls.append(element);
  }
  const all = measured().filter((one) => one.cells[column.i] !== ABSENT);
  const values = points((one) => Number(one.cells[column.i]), all, styles(), chart, column.label);
  const numbers = [...new Set(all.map((one) => Number(one.cells[column.i])))];
  return values && { ...values, x_values: numbers.length <= 12 ? numbers : undefined };
});
const costs = [...new Set(CONFIGURATIONS.flatMap((one) => Object.keys(one.costs)))];
const cost = { name: costs[0] };
new Chart("cost-chart", "scatter", (chart) => {
  const all = shown().filter((one) => one.costs[cost.name] && one.metrics[state.metric] && isNumber(value(one)));
  const at = (one) => one.costs[cost.name].statistics[0], better = metric()?.better === "lower" ? -1 : 1;
  const dominates = (a, b) => at(a) <= at(b) && better * (value(a) - value(b)) >= 0 && (at(a) < at(b) || value(a) !== value(b));
  const dominated = all.filter((one) => all.some((other) => dominates(other, one)));
  const list = (some) => some.slice(0, 8).map((one) => one.name).join(", ") + (some.length > 8 ? `, and ${some.length - 8} more` : "");
  const front = all.filter((one) => !dominated.includes(one)).sort((a, b) => at(a) - at(b));
  byId("dominated").textContent = all.length < 2 ? "" : dominated.length
    ? `Not dominated, from the cheapest to the best: ${list(front)}. Dominated (another has at least the same ${metric().label} for no more ${cost.name}): ${list(dominated)}.`
    : "No configuration is dominated: each one that is better costs more.";
  return points(at, all, styles(), chart, cost.name);
});

// --- classes

const confused = { table: DATA.counts[0]?.name, index: null };
new Chart("confusion", "heat", (chart) => {
  const table = DATA.counts.find((one) => one.name === confused.table);
  const all = shown().filter((one) => one.counts?.[confused.table]);
  const one = all.find((other) => indexOf.get(other) === confused.index) ?? all[0];
  const controls = byId("classes").querySelector(".controls");
  controls.replaceChildren();
  if (!one) return null;
  const element = menu("Of", all.map((other) => [indexOf.get(other), other.name]), (index) => { confused.index = Number(index); chart.draw(); });
  element.querySelector("select").value = indexOf.get(one);
  controls.append(element);
  const { rows, columns, mean } = one.counts[confused.table];
  const cells = rows.flatMap((row, i) => {
    const total = mean[i].reduce((sum, count) => sum + count, 0) || 1;
    return columns.map((column, j) => ({ row, column, share: mean[i][j] / total, label: rows.length > 12 || !mean[i][j] ? "" : String(Number(mean[i][j].toFixed(1))),
      ink: mean[i][j] / total > 0.45 ? "black" : "white", name: one.name, detail: `${table.keys[0]} ${row}, ${table.keys[1]} ${column}`, text: format(mean[i][j]) }));
  });
  return { rows: cells, height: Math.min(420, 26 * rows.length + 20), font_size: 11, x_title: table.keys[1], y_title: table.keys[0] };
});
