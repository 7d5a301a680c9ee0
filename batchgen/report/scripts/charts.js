// How did the night go? Charts of the run's requests, each with the same figures as a table.

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];
const plots = [];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Build the figures, anew when colours or width have changed. */
function drawFigures() {
  const root = byId("figures");
  const open = new Set([...root.querySelectorAll("details[open]")].map((each) => each.dataset.of));
  for (const plot of plots.splice(0)) plot.destroy();
  root.replaceChildren(...[failuresFigure(), spentFigure(), paceFigure(), latencyFigure(), histogramFigure()].filter(Boolean));
  for (const each of root.querySelectorAll("details")) each.open = open.has(each.dataset.of);
  for (const figure of root.querySelectorAll(".plot")) plots.push(figure.plot(figure.clientWidth));
}

function figure(name, sentence, ...inside) {
  return el("section", { class: "figure", "aria-label": name }, el("h2", { text: name }), el("p", { text: sentence }), ...inside);
}

/** The figures behind a chart, in words and numbers; made when somebody asks for them. */
function table(name, heads, lines, opened = false) {
  const row = (tag, cells) => el("tr", {}, ...cells.map((text) => el(tag, { text, scope: tag === "th" ? "col" : null })));
  const fill = (event) => {
    const holder = event.target.querySelector(".scroll");
    if (!event.target.open || holder.firstChild) return;
    holder.append(el("table", {}, el("thead", {}, row("th", heads)), el("tbody", {}, ...lines().map((cells) => row("td", cells)))));
  };
  return el("details", { "data-of": name, ontoggle: fill, open: opened }, el("summary", { text: "As a table" }), el("div", { class: "scroll", tabindex: 0 }));
}

/** A place for a chart; it is drawn once it has a width. */
function plot(label, options, series) {
  const holder = el("div", { class: "plot", role: "img", "aria-label": label });
  holder.plot = (width) => {
    const muted = colour("muted");
    const line = { stroke: colour("line"), width: 1 };
    const axis = { stroke: muted, grid: line, ticks: line, font: "12px system-ui, sans-serif" };
    const [x, y] = options.axes;
    const settings = {
      width,
      height: 220,
      legend: { live: true },
      cursor: { drag: { setScale: false }, y: false, points: { size: 7 } },
      ...options,
      axes: [{ ...axis, ...x }, { ...axis, size: 64, ...y }],
      series: [options.first, ...options.lines.map(drawnAs)],
    };
    for (const name of ["lines", "first"]) delete settings[name];
    return new uPlot(settings, series, holder);
  };
  return holder;
}

function drawnAs({ colour: name, label, value, fill = false, bars = false }) {
  const stroke = colour(name);
  return {
    label,
    stroke,
    value: (_, number) => (number === null || number === undefined ? "–" : value(number)),
    width: bars ? 0 : 2,
    fill: fill || bars ? `color-mix(in srgb, ${stroke} ${bars ? 75 : 14}%, transparent)` : undefined,
    points: { show: false },
    ...(bars ? { paths: uPlot.paths.bars({ size: [0.86, 60], gap: 1 }) } : {}),
  };
}

const brief = (seconds) => (seconds === 0 ? "0" : span(seconds).replaceAll(" min", "m").replace(/(\d) ([dhs])/g, "$1$2"));
const overTime = {
  scales: { x: { time: false }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.08 : 1] } },
  first: { label: "at", value: (_, at, __, place) => (at === null || place === null ? "–" : `${brief(at)} · ${clock(data.charts.clock[place])}`) },
};
const hours = { incrs: STEPS, values: (_, splits) => splits.map(brief), space: 64 };
const moments = (lines) => () => data.charts.at.map((at, place) => [brief(at), clock(data.charts.clock[place]), ...lines.map((line) => line(place))]);
const none = () => data.charts.at.length === 0;
const runs = () => (data.charts.runs.length > 1 ? ` ${count(data.charts.runs.length)} runs, one after the other, without the time between them.` : "");

function spentFigure() {
  if (none()) return null;
  const { at, spent, wasted, uncertain } = data.charts;
  const last = (series) => money(series.at(-1));
  const unsure = uncertain.at(-1) > 0;
  const lines = [
    { colour: "accent", label: "spent", value: money, fill: true },
    { colour: "failed", label: "wasted", value: money },
    ...(unsure ? [{ colour: "refused", label: "uncertain", value: money }] : []),
  ];
  const sentence = `${last(spent)}, of which ${last(wasted)} bought no picture${unsure ? `; up to ${last(uncertain)} more is uncertain` : ""}.${runs()}`;
  const series = [at, spent, wasted, ...(unsure ? [uncertain] : [])];
  const options = { ...overTime, axes: [hours, { values: (_, splits) => splits.map(money) }], lines };
  const show = (values) => (place) => money(values[place]);
  return figure(
    "Spend over time",
    sentence,
    plot(`Spend over time: ${sentence}`, options, series),
    table("spend", ["At work", "Time", ...lines.map((line) => line.label)], moments(series.slice(1).map(show))),
  );
}

function paceFigure() {
  if (none()) return null;
  const { at, good, failed, width, work } = data.charts;
  const rate = (counts) => counts.map((number) => (number * 60) / Math.min(width, Math.max(work, 1)));
  const total = good.reduce((sum, number) => sum + number, 0);
  const pace = (number) => `${number >= 100 ? count(Math.round(number)) : Number(number.toPrecision(3))}/min`;
  const mean = work > 0 ? (total * 60) / work : 0;
  const sentence = `${counted(total, "good answer")}, ${pace(mean)} on average, ${pace(Math.max(...rate(good)))} at best.`;
  const lines = [
    { colour: "succeeded", label: "good", value: pace, fill: true },
    { colour: "failed", label: "failed", value: pace },
  ];
  const series = [at, rate(good), rate(failed)];
  return figure(
    "Answers a minute",
    sentence,
    plot(`Answers a minute: ${sentence}`, { ...overTime, axes: [hours, {}], lines }, series),
    table("pace", ["At work", "Time", "good", "failed"], moments([(place) => count(good[place]), (place) => count(failed[place])])),
  );
}

function latencyFigure() {
  const { at, median, slow, quantiles } = data.charts;
  if (none() || quantiles.p50 === undefined) return null;
  const sentence = `Half of the answers came within ${span(quantiles.p50)}, nine of ten within ${span(quantiles.p90)}.`;
  const lines = [
    { colour: "accent", label: "half within", value: span },
    { colour: "refused", label: "nine of ten within", value: span },
  ];
  const shown = (values) => (place) => (values[place] === null ? "–" : span(values[place]));
  const options = { ...overTime, axes: [hours, { values: (_, splits) => splits.map(brief) }], lines };
  return figure(
    "Latency over time",
    sentence,
    plot(`Latency over time: ${sentence}`, options, [at, median, slow]),
    table("latency", ["At work", "Time", "half within", "nine of ten within"], moments([shown(median), shown(slow)])),
  );
}

function histogramFigure() {
  const { histogram, quantiles } = data.charts;
  if (histogram.length === 0) return null;
  const name = (bar) => `${brief(bar.least)} to ${brief(bar.below)}`;
  const total = histogram.reduce((sum, bar) => sum + bar.count, 0);
  const sentence = `${counted(total, "answer")}; one in a hundred took longer than ${span(quantiles.p99)}.`;
  const places = histogram.map((_, place) => place);
  const edge = (place) => (Number.isInteger(place) && histogram[place] ? brief(histogram[place].least) : "");
  const options = {
    scales: { x: { time: false, range: [-0.6, histogram.length - 0.4] }, y: { range: (_, __, most) => [0, most * 1.08] } },
    first: { label: "took", value: (_, __, ___, place) => (place === null ? "–" : name(histogram[place])) },
    axes: [{ incrs: [1, 2, 3, 5, 10], values: (_, splits) => splits.map(edge), space: 44, grid: { show: false } }, { values: (_, splits) => splits.map(count) }],
    lines: [{ colour: "accent", label: "answers", value: count, bars: true }],
  };
  return figure(
    "How long answers took",
    sentence,
    plot(`How long answers took: ${sentence}`, options, [places, histogram.map((bar) => bar.count)]),
    table("histogram", ["Took", "Answers"], () => histogram.map((bar) => [name(bar), count(bar.count)])),
  );
}

/** What went wrong, by class: rows that ended so, requests that did, and what to do. */
function failuresFigure() {
  const requests = data.charts.failures;
  const rowsOf = data.counts.failures;
  const kinds = [...new Set([...Object.keys(requests), ...Object.keys(rowsOf)])];
  if (kinds.length === 0) return figure("Failures", "No request failed.");
  const most = Math.max(...kinds.map((kind) => requests[kind] ?? 0), 1);
  const total = Object.values(requests).reduce((sum, number) => sum + number, 0);
  const left = Object.values(rowsOf).reduce((sum, number) => sum + number, 0);
  const line = (kind) =>
    el(
      "tr",
      {},
      el("td", {}, rowsOf[kind] ? el("button", { type: "button", class: "link", text: kind, onclick: () => showFailing(kind) }) : kind),
      el("td", { text: count(requests[kind] ?? 0) }),
      el("td", { class: "bars" }, el("meter", { min: 0, max: most, value: requests[kind] ?? 0, "aria-hidden": "true" })),
      el("td", { text: count(rowsOf[kind] ?? 0) }),
      el("td", { class: "wide", text: data.remedies[kind] ?? "" }),
    );
  const head = el("tr", {}, ...["Class", "Requests", "", "Rows", "What to do"].map((text, at) => el("th", { text, scope: "col", class: at === 4 ? "wide" : null })));
  return figure(
    "Failures",
    `${counted(total, "request")} brought nothing; with ${counted(left, "row")} that was the last word.`,
    el("div", { class: "scroll", tabindex: 0 }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...kinds.map(line)))),
  );
}
