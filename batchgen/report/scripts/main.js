// What happens when somebody presses, types or scrolls?

const grid = new Grid(byId("grid"), (place) => detail.show(place));
const detail = new Detail(grid);

/** Show what the filters let through. */
function refilter() {
  const set = showSet();
  const found = chosenRows();
  grid.show(found);
  byId("empty").hidden = found.length > 0;
  byId("clear").disabled = set === 0;
  const all = data.counts.statuses;
  const total = Object.values(all).reduce((sum, number) => sum + number, 0);
  const of = found.length === rows.length ? "" : ` of ${count(rows.length)}`;
  const left = total > rows.length ? ` (${count(total - rows.length)} more are not in this gallery)` : "";
  const only = failing === null ? "" : ` that ended with ${failing}`;
  byId("found").textContent = `${count(found.length)}${of} row${found.length === 1 && !of ? "" : "s"}${only}${left}`;
}

function showFailing(kind) {
  clearFilters();
  failing = kind;
  showView("gallery");
  refilter();
}

function showFlag(name) {
  clearFilters();
  byId("flag").value = name;
  showView("gallery");
  refilter();
}

function showStatus(status) {
  clearFilters();
  byId("status").value = status;
  showView("gallery");
  refilter();
}

function showView(name) {
  for (const view of ["gallery", "figures"]) {
    const tab = byId(`tab-${view}`);
    tab.setAttribute("aria-selected", String(view === name));
    tab.tabIndex = view === name ? 0 : -1;
    byId(view).hidden = view !== name;
  }
  if (name === "figures") drawFigures();
  else grid.measure();
}

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  if (!byId("figures").hidden) drawFigures();
}

function toggleTheme() {
  showTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  try {
    localStorage.setItem("batchgen:theme", document.documentElement.dataset.theme);
  } catch {
    // It holds for this page alone, which is what can be seen.
  }
}

function drawBar() {
  const part = ([status, number]) => {
    const piece = el("i", { class: status });
    piece.style.flexGrow = number;
    return piece;
  };
  byId("bar").replaceChildren(...Object.entries(data.counts.statuses).map(part));
}

/** The row that is meant by a key. */
const meant = () => (detail.open ? detail.row : grid.rows[grid.current]);

function markMeant(mark) {
  const row = meant();
  if (row === undefined) return;
  // To keep what was rejected is first of all to take that back.
  const wanted = mark === "keep" && markOf(row) !== null ? markOf(row) : mark;
  if (detail.open) detail.mark(wanted);
  else toggleMark(row, wanted, () => grid.refresh(grid.current));
}

const sideways = { ArrowRight: 1, ArrowLeft: -1 };
const arrows = {
  ArrowRight: () => 1,
  ArrowLeft: () => -1,
  ArrowDown: () => grid.columns,
  ArrowUp: () => -grid.columns,
  Home: () => -Infinity,
  End: () => Infinity,
};

/** Keys that mean the same wherever one is. */
const keys = {
  j: () => go(1),
  k: () => go(-1),
  r: () => markMeant("reject"),
  u: () => markMeant("keep"),
  v: () => detail.open && detail.toggleBeside(),
  g: () => detail.open || showView("gallery"),
  f: () => detail.open || showView("figures"),
  "?": () => detail.open || byId("help").showModal(),
  "/": () => {
    if (detail.open) return;
    showView("gallery");
    byId("search").focus();
    byId("search").select();
  },
};

function go(by) {
  if (detail.open) detail.step(by);
  else if (!byId("gallery").hidden) grid.go(document.activeElement?.closest(".cell") ? grid.current + by : grid.current);
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const arrow = arrows[event.key];
  const inTabs = event.target.closest("[role=tablist]");
  if (arrow && inTabs) return showView(byId("gallery").hidden ? "gallery" : "figures");
  if (sideways[event.key] && detail.open) {
    event.preventDefault();
    return detail.step(sideways[event.key]);
  }
  if (arrow && !detail.open && event.target.closest(".cell")) {
    event.preventDefault();
    return grid.go(grid.current + arrow());
  }
  const action = keys[event.key];
  if (action === undefined) return;
  event.preventDefault();
  action();
}

function listen() {
  const soon = settled(refilter);
  byId("search").addEventListener("input", soon);
  byId("contains").addEventListener("input", soon);
  byId("toolbar").addEventListener("submit", (event) => event.preventDefault());
  byId("toolbar").addEventListener("change", (event) => {
    // A text field says so when it is left, which is when a card is clicked: that must not go from under it.
    if (event.target.tagName !== "SELECT") return;
    if (event.target.id === "column") offerValues();
    refilter();
  });
  for (const id of ["clear", "clear-empty"]) {
    byId(id).addEventListener("click", () => {
      clearFilters();
      refilter();
    });
  }
  byId("more").addEventListener("click", () => {
    const open = byId("filters").classList.toggle("open");
    byId("more").setAttribute("aria-expanded", String(open));
  });
  byId("download").addEventListener("click", download);
  byId("again-close").addEventListener("click", () => {
    byId("again-box").hidden = true;
  });
  byId("theme").addEventListener("click", toggleTheme);
  byId("ask").addEventListener("click", () => byId("help").showModal());
  for (const view of ["gallery", "figures"]) byId(`tab-${view}`).addEventListener("click", () => showView(view));
  for (const command of document.querySelectorAll(".copy")) {
    Object.assign(command, { tabIndex: 0, role: "button", title: "Copy" });
    command.addEventListener("keydown", (event) => event.key === "Enter" && copy(command));
  }
  document.addEventListener("keydown", pressed);
  document.addEventListener("click", chosen);
  addEventListener("resize", settled(() => byId("figures").hidden || drawFigures(), 150));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
    if (remembered("batchgen:theme") === null) showTheme(event.matches ? "dark" : "light");
  });
}

/** What in the summary leads into the gallery. */
function chosen(event) {
  const target = event.target.closest("[data-status], [data-error], [data-flag], .copy");
  if (target === null) return;
  if (target.classList.contains("copy")) copy(target);
  else if (target.dataset.status) showStatus(target.dataset.status);
  else if (target.dataset.error) showFailing(target.dataset.error);
  else showFlag(target.dataset.flag);
}

/** A link to one row opens it. */
function openLinked() {
  const key = location.hash.startsWith("#row=") ? decodeURIComponent(location.hash.slice(5)) : null;
  const row = key === null ? undefined : byKey.get(key);
  if (row !== undefined) detail.showRow(row);
}

recall();
offerFilters();
drawBar();
byId("again").textContent = data.again;
listen();
showMarks();
refilter();
openLinked();
document.documentElement.dataset.ready = "";
