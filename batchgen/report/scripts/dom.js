// How does something get onto the screen? As text and attributes alone: nothing here reads markup.

/** The element of this id. */
const byId = (id) => document.getElementById(id);

/**
 * Make an element. Properties that begin with "on" are listeners, "class" and "text" are what they say, all
 * others are attributes; those that are null, undefined or false are left out.
 */
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name === "text") made.textContent = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const wholes = new Intl.NumberFormat("en-US");
const count = (number) => wholes.format(number);

/** "1 picture", "2 pictures". */
const counted = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

// Made once: a formatter takes longer to make than a card.
const digits = (number) => new Intl.NumberFormat("en-US", { minimumFractionDigits: number, maximumFractionDigits: number });
const [cents, fine] = [digits(2), digits(4)];

/** USD with as many digits as it takes to see the amount. */
const money = (amount) => `$${(Math.abs(amount) >= 1 || amount === 0 ? cents : fine).format(amount)}`;

/** Seconds in their two largest units. */
function span(seconds) {
  if (seconds < 10) return `${Number(seconds.toPrecision(2))} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => whole >= size);
  const [[large, size], [small, part]] = units.slice(first, first + 2);
  const rest = Math.floor((whole % size) / part);
  return `${Math.floor(whole / size)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

function bytes(size) {
  if (size < 1000) return `${size} B`;
  return size < 1e6 ? `${(size / 1e3).toFixed(0)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}

/** Milliseconds since 1970 as the clock on this wall shows them. */
function clock(at) {
  return new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** Wait until nothing more is typed. */
function settled(action, delay = 120) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(action, delay, ...given);
  };
}

/** Put a text on the clipboard; where that is not allowed, select it for the reader to copy. */
async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    element.classList.add("copied");
    setTimeout(() => element.classList.remove("copied"), 1500);
  } catch {
    getSelection().selectAllChildren(element);
  }
}
