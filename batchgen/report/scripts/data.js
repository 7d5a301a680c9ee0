// What did the run bring? The rows as they came with the page, and how they hang together.

const data = JSON.parse(byId("data").textContent);
const rows = [];
const inline = new Map();

for (const block of document.querySelectorAll("script.piece")) {
  const piece = JSON.parse(block.textContent);
  for (const row of piece.rows) rows.push(row);
  for (const [name, encoded] of Object.entries(piece.thumbs ?? {})) inline.set(name, encoded);
  block.remove(); // the text is not needed a second time
}

/** What is left out of the JSON because it is usual. */
const usual = { variant: 1, prompt: "", model: "", asked: {}, drafts: [], references: [], cells: [], attempts: 0 };
rows.forEach((row, place) => {
  for (const name in usual) row[name] ??= usual[name];
  row.place = place;
  row.dollars = row.cost === undefined ? null : Number(row.cost);
});

function grouped(some, key) {
  const found = new Map();
  for (const row of some) {
    const group = found.get(key(row));
    if (group) group.push(row);
    else found.set(key(row), [row]);
  }
  return found;
}

const byKey = new Map(rows.map((row) => [row.key, row]));
const byFile = new Map(rows.filter((row) => row.file !== undefined).map((row) => [row.file, row]));
const variantsOf = grouped(rows, (row) => row.id);
const childrenOf = grouped(rows.filter((row) => row.parent), (row) => row.parent.key);

/** All pictures of the row, this one included. */
const variants = (row) => variantsOf.get(row.id);

/** Where a thumbnail is; null where there is none. */
function thumbnail(name) {
  if (name === undefined || name === null) return null;
  if (data.folder !== null) return `${data.folder}/${name}-${data.pixels}.webp`;
  return inline.has(name) ? `data:image/webp;base64,${inline.get(name)}` : null;
}

/** The row's name for people. */
const title = (row) => (variants(row).length > 1 || row.variant > 1 ? `${row.id} · ${row.variant}` : row.id);

/** Why there is no picture, in a word. */
const why = (row) => row.error ?? (row.status === "pending" ? "still to come" : data.words[row.status] ?? row.status);
