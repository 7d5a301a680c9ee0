// How do ten thousand pictures stay quick? Only the cards that can be seen exist; all others are space.

const GAP = 14;
const LEAST = 196; // pixels of a card's width
const CAPTION = 76;
const MARGIN = 2; // rows of cards that are ready above and below the window

class Grid {
  /** @param root where the cards go; `onOpen(place)` is called for the one that is opened. */
  constructor(root, onOpen) {
    this.root = root;
    this.onOpen = onOpen;
    this.rows = [];
    this.cells = new Map();
    this.current = 0;
    this.columns = 1;
    this.waiting = false;
    addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.measure()).observe(root);
  }

  /** Show other rows; the current one stays the current one if it is among them. */
  show(found) {
    const before = this.rows[this.current];
    this.rows = found;
    this.current = Math.max(0, found.indexOf(before));
    this.clear();
    this.measure();
  }

  clear() {
    this.cells.clear();
    this.root.replaceChildren();
  }

  /** Find out how many cards go beside each other. */
  measure() {
    const width = this.root.clientWidth;
    if (width === 0) return;
    const gap = width < 560 ? 8 : GAP;
    const columns = Math.max(width < 560 ? 2 : 1, Math.floor((width + gap) / (LEAST + gap)));
    const side = Math.floor((width - gap * (columns - 1)) / columns);
    Object.assign(this, { columns, side, gap, height: side + CAPTION });
    const lines = Math.ceil(this.rows.length / columns);
    this.root.style.height = `${Math.max(0, lines * (this.height + gap) - gap)}px`;
    for (const [place, cell] of this.cells) this.put(cell, place);
    this.draw();
  }

  /** Draw before the next frame, once. */
  soon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  /** Make the cards that can be seen, and drop the others, but not the one that has the focus. */
  draw() {
    if (this.root.clientWidth === 0) return;
    const top = -this.root.getBoundingClientRect().top;
    const line = this.height + this.gap;
    const first = Math.max(0, Math.floor(top / line) - MARGIN) * this.columns;
    const last = Math.min(this.rows.length, (Math.ceil((top + innerHeight) / line) + MARGIN) * this.columns);
    for (const [place, cell] of this.cells) {
      if ((place < first || place >= last) && !cell.contains(document.activeElement)) this.drop(place);
    }
    const fresh = [];
    for (let place = first; place < last; place += 1) {
      if (!this.cells.has(place)) fresh.push(this.make(place));
    }
    this.root.append(...fresh);
  }

  drop(place) {
    this.cells.get(place)?.remove();
    this.cells.delete(place);
  }

  make(place) {
    const cell = card(this.rows[place], place, this);
    cell.setAttribute("aria-posinset", place + 1);
    cell.setAttribute("aria-setsize", this.rows.length);
    this.put(cell, place);
    this.cells.set(place, cell);
    return cell;
  }

  put(cell, place) {
    const column = place % this.columns;
    const line = Math.floor(place / this.columns);
    cell.style.width = `${this.side}px`;
    cell.style.height = `${this.height}px`;
    cell.style.transform = `translate(${column * (this.side + this.gap)}px, ${line * (this.height + this.gap)}px)`;
  }

  /** Make one card anew after its mark has changed. */
  refresh(place) {
    const cell = this.cells.get(place);
    if (cell === undefined) return;
    showMark(cell, this.rows[place]);
  }

  /** Go to a card and give it the focus. */
  go(place) {
    if (this.rows.length === 0) return;
    const before = this.cells.get(this.current)?.querySelector(".card");
    if (before) before.tabIndex = -1;
    this.current = Math.min(this.rows.length - 1, Math.max(0, place));
    this.reveal(this.current);
    this.draw();
    const button = this.cells.get(this.current)?.querySelector(".card");
    if (!button) return;
    button.tabIndex = 0;
    button.focus({ preventScroll: true });
  }

  /** Scroll as little as it takes. */
  reveal(place) {
    const at = Math.floor(place / this.columns) * (this.height + this.gap);
    const top = this.root.getBoundingClientRect().top + at;
    const above = 8 + (byId("deck").offsetHeight || byId("counter").offsetHeight);
    if (top < above) scrollBy(0, top - above);
    else if (top + this.height > innerHeight - 8) scrollBy(0, top + this.height - innerHeight + 8);
  }
}

/** One row as a card. */
function card(row, place, grid) {
  const button = el(
    "button",
    {
      type: "button",
      class: "card",
      tabindex: place === grid.current ? 0 : -1,
      "aria-label": spoken(row),
      onclick: () => grid.onOpen(place),
      onfocus: () => {
        grid.current = place;
      },
    },
    face(row),
    el(
      "span",
      { class: "caption" },
      el("span", { class: "prompt", text: row.prompt || row.id }),
      el(
        "span",
        { class: "meta" },
        el("span", { text: title(row) }),
        el("span", { text: [row.dollars === null ? "" : money(row.dollars), row.latency ? span(row.latency) : ""].filter(Boolean).join(" · ") }),
      ),
    ),
  );
  const cell = el("li", { class: "cell", "data-key": row.key }, button, ...markButtons(row, () => showMark(cell, row)));
  showMark(cell, row);
  return cell;
}

const spoken = (row) =>
  [title(row), data.words[row.status] ?? row.status, row.error, markOf(row), shortened(row.prompt, 140)]
    .filter(Boolean)
    .join(", ");

/** The picture of a card, the words, or why there is neither. */
function face(row) {
  const source = thumbnail(row.thumb);
  const badges = el("span", { class: "badges" }, ...badgesOf(row));
  if (source !== null) {
    return el("span", { class: "face" }, el("img", { src: source, alt: "", loading: "lazy", decoding: "async" }), badges);
  }
  if (row.status === "succeeded" && row.file === undefined && row.text) {
    return el("span", { class: "face" }, el("span", { class: "words", text: shortened(row.text, 400) }), badges);
  }
  const reason = row.problem ?? (row.status === "succeeded" ? "" : shortened(row.message ?? "", 90));
  const head = row.problem ? "No thumbnail" : row.status === "succeeded" ? "words alone" : why(row);
  return el("span", { class: "face" }, el("span", { class: "why" }, el("b", { text: head }), reason), badges);
}

function badgesOf(row) {
  const badge = (text, bad = false) => el("span", { class: bad ? "badge bad" : "badge", text });
  return [
    ["succeeded", "pending"].includes(row.status) ? null : badge(data.words[row.status] ?? row.status, true),
    row.size_ok === false ? badge("size", true) : null,
    row.blank ? badge("blank", true) : null,
    row.near !== undefined ? badge("look-alike", true) : null,
    row.problem !== undefined && row.thumb ? badge("changed", true) : null,
    variants(row).length > 1 ? badge(`${row.variant} of ${variants(row).length}`) : null,
    row.parent ? badge("continues") : null,
  ];
}

/** Keep and reject, for fingers and mice; the keys do the same. */
function markButtons(row, changed, words = false) {
  const button = (mark, sign, label) =>
    el("button", {
      type: "button",
      class: `mark ${mark}`,
      tabindex: words ? 0 : -1,
      "aria-label": `${label} ${title(row)}`,
      title: `${label} (${mark === "reject" ? "r" : "u"})`,
      onclick: () => toggleMark(row, mark, changed),
    }, sign, words && el("span", { class: "label", text: ` ${label}` }));
  return [button("keep", "✓", "Keep"), button("reject", "✕", "Reject")];
}

function showMark(cell, row) {
  const mark = markOf(row);
  cell.classList.toggle("rejected", mark === "reject");
  cell.classList.toggle("kept", mark === "keep");
  for (const button of cell.querySelectorAll(".mark")) {
    button.setAttribute("aria-pressed", String(mark !== null && button.classList.contains(mark)));
  }
  cell.querySelector(".card")?.setAttribute("aria-label", spoken(row));
}

function toggleMark(row, mark, changed) {
  setMark(row, markOf(row) === mark ? null : mark);
  changed();
  showMarks();
}
