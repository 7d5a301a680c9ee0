// Which pictures were rejected or kept? This browser's memory, by the content of the picture: one that was
// bought anew is looked at anew.

const marks = new Map();
const markKey = (row) => `${row.key} ${row.sha256 ?? ""}`;

/** Read what was marked before. */
function recall() {
  try {
    const stored = JSON.parse(remembered(data.marks) ?? "{}");
    for (const [key, mark] of Object.entries(stored)) {
      if (mark === "reject" || mark === "keep") marks.set(key, mark);
    }
  } catch {
    warn("The marks that this browser kept cannot be read; they begin anew.");
  }
}

const markOf = (row) => marks.get(markKey(row)) ?? null;

/** Mark a row ("reject", "keep"), or take its mark back (null). */
function setMark(row, mark) {
  if (mark === null) marks.delete(markKey(row));
  else marks.set(markKey(row), mark);
  try {
    localStorage.setItem(data.marks, JSON.stringify(Object.fromEntries(marks)));
  } catch {
    warn("This browser keeps no marks for pages like this one: download the list before you close it.");
  }
}

const marked = (mark) => rows.filter((row) => markOf(row) === mark);

/** A cell of CSV. What a spreadsheet would take for a formula gets an apostrophe, unless it must stay exact. */
function cell(value, exact = false) {
  let text = value === null || value === undefined ? "" : String(value);
  if (!exact && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The rejected rows as a table that `--only` takes: ids as they are. */
function rejectsAsCsv() {
  const lines = marked("reject").map((row) =>
    [cell(row.id, true), row.variant, cell(row.file), cell(row.model), cell(row.cost), cell(row.prompt)].join(","),
  );
  return ["id,variant,file_name,model,cost_usd,prompt", ...lines].join("\r\n") + "\r\n";
}

function download() {
  const link = el("a", {
    href: URL.createObjectURL(new Blob([rejectsAsCsv()], { type: "text/csv" })),
    download: data.rejects,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  byId("again-box").hidden = false;
}

/** The rows that hang on rejected ones, however far, and are not bought anew with them. */
function following(rejected) {
  const anew = new Set(rejected.flatMap(variants));
  const found = new Set(anew);
  for (const row of found) for (const child of childrenOf.get(row.key) ?? []) found.add(child);
  return new Set([...found].filter((row) => !anew.has(row)));
}

/** Say how many are marked, and what can be done with them. */
function showMarks() {
  const rejected = marked("reject");
  const kept = marked("keep").length;
  const said = [rejected.length ? `${count(rejected.length)} rejected` : "", kept ? `${count(kept)} kept` : ""];
  byId("marked").textContent = said.filter(Boolean).join(", ") || "Mark pictures with ✓ and ✕";
  byId("marked").classList.toggle("idle", marks.size === 0);
  byId("download").disabled = rejected.length === 0;
  if (rejected.length === 0) byId("again-box").hidden = true;
  const several = new Set(rejected.filter((row) => variants(row).length > 1).map((row) => row.id));
  const whole = several.size
    ? `${counted(several.size, "rejected row")} ha${several.size === 1 ? "s" : "ve"} several variants: --only` +
      " goes by the row's id, so all variants of such a row are bought anew, those you like too."
    : "";
  const later = following(rejected).size;
  const behind = later
    ? `${counted(later, "more row")} continue${later === 1 ? "s" : ""} such rows; the next run without --only buys ${later === 1 ? "it" : "them"} anew too.`
    : "";
  byId("again-note").textContent = [whole, behind, data.note].filter(Boolean).join(" ");
}

function warn(text) {
  byId("warning").textContent = text;
  byId("warning").hidden = false;
}
