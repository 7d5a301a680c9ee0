// What is there to know of one row? A dialog with its picture, what it came from, and all that was noted.

class Detail {
  /** @param grid whose rows are gone through; the current one is shown. */
  constructor(grid) {
    this.grid = grid;
    this.dialog = byId("detail");
    this.beside = false;
    this.row = null;
    this.dialog.addEventListener("close", () => this.closed());
  }

  get open() {
    return this.dialog.open;
  }

  /** Show a row by its place in the grid. */
  show(place) {
    if (place < 0 || place >= this.grid.rows.length) return;
    this.grid.current = place;
    this.showRow(this.grid.rows[place]);
  }

  /** Show a row whether or not the filters let it through. */
  showRow(row) {
    this.row = row;
    const place = this.grid.rows.indexOf(row);
    if (place >= 0) this.grid.current = place;
    this.draw();
    if (!this.dialog.open) this.dialog.showModal();
    history.replaceState(null, "", `#row=${encodeURIComponent(row.key)}`);
  }

  step(by) {
    this.show(this.grid.current + by);
  }

  toggleBeside() {
    if (variants(this.row).length < 2) return;
    this.beside = !this.beside;
    this.draw();
  }

  mark(mark) {
    toggleMark(this.row, mark, () => this.marked());
  }

  marked() {
    showMark(this.dialog, this.row);
    this.grid.refresh(this.grid.rows.indexOf(this.row));
  }

  closed() {
    history.replaceState(null, "", location.pathname + location.search);
    // The browser has given the focus back to the card that was opened; others may have been shown since.
    const place = this.grid.rows.indexOf(this.row);
    this.grid.go(place < 0 ? this.grid.current : place);
  }

  draw() {
    const row = this.row;
    this.dialog.replaceChildren(
      el("div", { class: "detail" }, this.head(row), el("div", { class: "stage" }, this.pictures(row), this.strip(row)), facts(row)),
    );
    showMark(this.dialog, row);
    ahead(this.grid.rows[this.grid.current + 1]);
  }

  head(row) {
    const button = (text, label, action) =>
      el("button", { type: "button", class: "icon", text, "aria-label": label, title: label, onclick: action });
    const place = this.grid.rows.indexOf(row);
    const several = variants(row).length > 1;
    return el(
      "div",
      { class: "head" },
      el("h2", { id: "detail-title", text: title(row) }),
      el("span", { class: "place", text: place < 0 ? "not in this selection" : `${count(place + 1)} of ${count(this.grid.rows.length)}` }),
      several &&
        el("button", { type: "button", id: "beside", text: "Side by side", title: "All variants (v)", "aria-pressed": String(this.beside), onclick: () => this.toggleBeside() }),
      ...markButtons(row, () => this.marked(), true),
      button("←", "Previous (k)", () => this.step(-1)),
      button("→", "Next (j)", () => this.step(1)),
      button("✕", "Close (Esc)", () => this.dialog.close()),
    );
  }

  /** The picture, with what it was made from before it, or all variants beside each other. */
  pictures(row) {
    const all = variants(row);
    if (this.beside && all.length > 1) {
      const each = (one) => full(one, `${title(one)}${one === row ? " (this one)" : ""}`);
      return el("div", { class: "pictures many" }, ...all.map(each));
    }
    const from = row.parent?.picture ? [source(row.parent)] : row.references.filter((one) => one.thumb).slice(0, 1).map(along);
    return el("div", { class: "pictures" }, ...from, full(row, from.length ? "the result" : null));
  }

  /** Everything near this picture, small. */
  strip(row) {
    const all = variants(row);
    const others = childrenOf.get(row.key) ?? [];
    const parent = row.parent && byKey.get(row.parent.key);
    const groups = [
      ["Continues", row.parent ? [parent ? this.mini(parent) : outside(row.parent)] : []],
      ["Continued by", others.map((one) => this.mini(one))],
      ["Pictures that went along", row.references.map(reference)],
      ["Variants", all.length > 1 ? all.map((one) => this.mini(one)) : []],
      ["Drafts", row.drafts.map((draft) => linked(draft.name, draft.href, draft.href))],
      ["Looks like", byFile.has(row.near) ? [this.mini(byFile.get(row.near))] : []],
    ].filter(([, items]) => items.length);
    if (groups.length === 0) return null;
    const group = ([name, items]) =>
      el("section", {}, el("h3", { text: name }), el("ul", {}, ...items.map((item) => el("li", {}, item))));
    return el("div", { class: "strip" }, ...groups.map(group));
  }

  mini(row) {
    const image = thumbnail(row.thumb);
    return el(
      "button",
      { type: "button", class: "mini", title: title(row), "aria-label": `Row ${title(row)}`, "aria-current": row === this.row ? "true" : null, onclick: () => this.showRow(row) },
      image ? el("img", { src: image, alt: "" }) : el("span", { text: why(row) }),
    );
  }
}

/** The file of a picture with what it is; a thumbnail until it is there, and where it is not. */
function full(row, caption) {
  const figure = (...inside) =>
    el("figure", {}, el("div", { class: "pane" }, ...inside), caption ? el("figcaption", { text: caption }) : null);
  if (row.href === undefined || row.status === "corrupt") return figure(absent(row));
  const small = thumbnail(row.thumb);
  const image = el("img", { src: row.href, alt: row.prompt || title(row), "data-full": "", onerror: () => missing(image, small, row) });
  return figure(el("a", { href: row.href, target: "_blank", rel: "noopener", title: `Open ${row.file}` }, image));
}

/** The file is not where it was: the thumbnail has to do. */
function missing(image, small, row) {
  const note = el("figcaption", { text: `${row.file} is not beside this page${small ? "; this is its thumbnail" : ""}.` });
  image.closest("figure").append(note);
  if (small && image.getAttribute("src") !== small) image.setAttribute("src", small);
  else image.remove();
}

function absent(row) {
  const words = row.status === "succeeded" ? "Answered in words" : `${data.words[row.status] ?? row.status}: ${why(row)}`;
  return el("p", { class: "why" }, el("b", { text: words }), row.message ?? "");
}

const source = (parent) => {
  const known = byKey.get(parent.key);
  const picture = el("img", { src: parent.picture.href, alt: `Row ${parent.id}` });
  return el(
    "figure",
    { "data-parent": "" },
    el("div", { class: "pane" }, el("a", { href: parent.picture.href, target: "_blank", rel: "noopener" }, picture)),
    el("figcaption", { text: `continues ${known ? title(known) : parent.id}` }),
  );
};

const along = (one) =>
  el(
    "figure",
    { "data-reference": "" },
    el("div", { class: "pane" }, el("span", { class: "shown" }, el("img", { src: thumbnail(one.thumb), alt: one.name }))),
    el("figcaption", { text: `went along: ${shortened(one.name)}` }),
  );

/** A picture that opens as a file of its own. */
function linked(name, href, image) {
  return el("a", { class: "mini", href, target: "_blank", rel: "noopener", title: name }, el("img", { src: image, alt: name, loading: "lazy" }));
}

const outside = (parent) =>
  parent.picture ? linked(parent.id, parent.picture.href, parent.picture.href) : el("span", { class: "mini" }, el("span", { text: parent.id || "unknown" }));

function reference(one) {
  const small = thumbnail(one.thumb);
  return el("span", { class: "mini", title: one.name }, small ? el("img", { src: small, alt: one.name }) : el("span", { text: one.name.split("/").pop() }));
}

/** Fetch the next picture while this one is looked at. */
function ahead(row) {
  if (row?.href !== undefined) new Image().src = row.href;
}

/** All that was noted of a row. */
function facts(row) {
  const failed = row.status !== "succeeded" && row.error !== undefined;
  return el(
    "div",
    { class: "facts", tabindex: 0, "aria-label": "All about this row" },
    row.problem ? block("The file", el("p", { class: "alert", text: `${row.problem}; batchgen verify tells more.` })) : null,
    failed
      ? block("What went wrong", el("div", { class: "alert" }, el("p", {}, el("b", { text: row.error })), el("p", { class: "said", text: row.message ?? "" }), el("p", { class: "note", text: data.remedies[row.error] ?? "" })))
      : null,
    said("Prompt", row.prompt),
    said("System", row.system),
    row.messages ? block("Messages", el("pre", { text: indented(row.messages) })) : null,
    said("Answer", row.text),
    said("Reasoning", row.reasoning),
    row.tool_calls ? block("Tool calls", el("pre", { text: indented(row.tool_calls) })) : null,
    pairs("Picture", pictureFacts(row)),
    pairs("Request", requestFacts(row)),
    pairs("Asked for", Object.entries(row.asked)),
    pairs("Columns", data.columns.map((name, at) => [name, row.cells[at]])),
  );
}

function pictureFacts(row) {
  if (row.file === undefined) return [];
  return [
    ["File", row.file, row.href],
    ["Size", `${row.width} × ${row.height}, ${bytes(row.bytes)}, ${row.mime}${row.size_ok === false ? "; not the size asked for" : ""}`],
    ["Blank", row.blank ? "all of one colour" : null],
    ["Looks like", row.near],
    ["SHA-256", row.sha256, null, "code"],
  ];
}

function requestFacts(row) {
  const [prompt, text, image] = row.tokens ?? [0, 0, 0];
  return [
    ["Status", data.words[row.status] ?? row.status],
    ["Model", row.model],
    ["Cost", row.dollars === null ? (row.attempts ? "no known price" : null) : `$${row.cost.replace(/(\.\d\d\d*?)0+$/, "$1")}`],
    ["Wasted", row.wasted && `$${row.wasted.replace(/(\.\d\d\d*?)0+$/, "$1")} of it`],
    ["Tokens", row.attempts ? `${count(prompt)} in, ${count(text)} text, ${count(image)} image (${row.quality})` : null],
    ["Attempts", row.attempts || null],
    ["Latency", row.latency ? span(row.latency) : null],
    ["Finished", row.finished ? clock(row.finished) : null],
    ["Finish reason", row.finish],
    ["Request id", row.request, null, "code"],
    ["Key", row.key, null, "code"],
  ];
}

const block = (name, ...inside) => el("section", {}, el("h3", { text: name }), ...inside);
const said = (name, text) => (text ? block(name, el("p", { class: "said", text })) : null);

function pairs(name, entries) {
  const shown = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  if (shown.length === 0) return null;
  const value = (text, href) => (href ? el("a", { href, target: "_blank", rel: "noopener", text }) : String(text));
  const lines = shown.flatMap(([key, text, href, style]) => [el("dt", { text: key }), el("dd", { class: style ?? "" }, value(text, href))]);
  return block(name, el("dl", { class: "pairs" }, ...lines));
}

/** JSON as people read it; what is none stays as it is. */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
