// Which rows are shown, and in which order?

const FEW = 40; // values of a column that fit into a list
const flags = {
  size: ["Not the size asked for", (row) => row.size_ok === false],
  blank: ["Of one colour", (row) => row.blank === true],
  near: ["Looks like an earlier one", (row) => row.near !== undefined],
  problem: ["File missing or changed", (row) => row.problem !== undefined],
  variants: ["Several variants", (row) => variants(row).length > 1],
  continued: ["Continues another row", (row) => row.parent !== undefined],
  drafts: ["Has drafts", (row) => row.drafts.length > 0],
  rejected: ["Rejected", (row) => markOf(row) === "reject"],
  kept: ["Kept", (row) => markOf(row) === "keep"],
  unmarked: ["Not marked yet", (row) => markOf(row) === null],
};
const always = ["rejected", "kept", "unmarked"];
const orders = {
  manifest: ["Manifest", null],
  dear: ["Dearest", (row) => -(row.dollars ?? -1)],
  cheap: ["Cheapest", (row) => row.dollars ?? Infinity],
  slow: ["Slowest", (row) => -(row.latency ?? -1)],
  quick: ["Quickest", (row) => row.latency ?? Infinity],
  newest: ["Newest", (row) => -(row.finished ?? 0)],
};
const fields = ["status", "model", "column", "value", "contains", "flag", "order"];
let failing = null; // the error class that is shown alone

/** What is searched in; made when it is first asked for. */
function haystack(row) {
  row.haystack ??= [row.id, row.prompt, row.text, row.message, row.error, row.file]
    .filter(Boolean)
    .join("\n")
    .toLowerCase();
  return row.haystack;
}

/** How often each value comes, the most frequent first. */
function tally(values) {
  const found = new Map();
  for (const value of values) found.set(value, (found.get(value) ?? 0) + 1);
  return [...found].sort((one, other) => other[1] - one[1]);
}

function offer(select, options) {
  select.replaceChildren(...options.map(([value, text]) => el("option", { value, text })));
}

/** Fill the lists with what there is to choose from. */
function offerFilters() {
  const listed = (values, name = (value) => value) =>
    tally(values).map(([value, number]) => [value, `${name(value)} (${count(number)})`]);
  offer(byId("status"), [["", "Any"], ...listed(rows.map((row) => row.status), (value) => data.words[value] ?? value)]);
  offer(byId("model"), [["", "Any"], ...listed(rows.map((row) => row.model))]);
  offer(byId("column"), [["", data.columns.length ? "Choose…" : "None"], ...data.columns.map((name, at) => [at, name])]);
  byId("column").disabled = data.columns.length === 0;
  const there = Object.entries(flags).filter(([name, [, test]]) => always.includes(name) || rows.some(test));
  offer(byId("flag"), [["", "All"], ...there.map(([name, [text]]) => [name, text])]);
  offer(byId("order"), Object.entries(orders).map(([name, [text]]) => [name, text]));
  offerValues();
}

/** The values of the chosen column, where they are few. */
function offerValues() {
  const column = byId("column").value;
  const found = column === "" ? [] : tally(rows.map((row) => row.cells[column] ?? null));
  const few = found.length > 0 && found.length <= FEW;
  const options = few ? found.map(([value, number], at) => [at, `${shortened(value ?? "(empty)")} (${count(number)})`]) : [];
  offer(byId("value"), [["", few || column === "" ? "Any" : "Too many"], ...options]);
  byId("value").values = found.map(([value]) => value);
  byId("value").disabled = !few;
  byId("contains").disabled = column === "";
  byId("contains").value = "";
}

const shortened = (text, most = 60) => (text.length > most ? `${text.slice(0, most)}…` : text);

/** The rows that pass everything that is set. */
function chosenRows() {
  const value = Object.fromEntries(fields.map((name) => [name, byId(name).value]));
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = value.value === "" ? undefined : byId("value").values[value.value];
  const part = value.contains.toLowerCase();
  const tests = [
    value.status !== "" && ((row) => row.status === value.status),
    value.model !== "" && ((row) => row.model === value.model),
    value.flag !== "" && flags[value.flag][1],
    failing !== null && ((row) => row.error === failing && row.status !== "succeeded"),
    wanted !== undefined && ((row) => (row.cells[value.column] ?? null) === wanted),
    part !== "" && ((row) => (row.cells[value.column] ?? "").toLowerCase().includes(part)),
    words.length > 0 && ((row) => words.every((word) => haystack(row).includes(word))),
  ].filter(Boolean);
  return ordered(rows.filter((row) => tests.every((test) => test(row))), orders[value.order][1]);
}

function ordered(found, rank) {
  if (rank === null) return found;
  return found
    .map((row) => [rank(row), row])
    .sort((one, other) => one[0] - other[0] || one[1].place - other[1].place)
    .map(([, row]) => row);
}

/** Show which fields are set, and how many. */
function showSet() {
  let set = 0;
  for (const name of fields) {
    const isSet = byId(name).value !== "" && byId(name).value !== "manifest";
    byId(name).classList.toggle("set", isSet);
    set += isSet && name !== "order";
  }
  byId("more").textContent = set ? `Filters (${set})` : "Filters";
  return set + (failing !== null) + (byId("search").value.trim() !== "");
}

function clearFilters() {
  failing = null;
  byId("search").value = "";
  for (const name of fields) byId(name).value = name === "order" ? byId("order").value : "";
  offerValues();
}
