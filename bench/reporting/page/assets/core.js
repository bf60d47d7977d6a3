"use strict";
// Data, state in the address, and helpers that every part of the page uses.
const DATA = JSON.parse(document.getElementById("data").textContent);
const THRESHOLD = 0.1; // nats of MI below which a posterior has collapsed
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Create an element: attributes by name, `on…` as listeners, children as nodes or text. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

// ---- state

const LISTS = ["families", "groups", "pins", "curves"];
const DEFAULTS = { set: DATA.sets[0].stem, sort: "", down: "", q: "", use: "", best: "", open: "" };
const state = { ...DEFAULTS, ...Object.fromEntries(LISTS.map((name) => [name, []])) };
const listeners = [];

function readState() {
  const stored = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULTS)) state[name] = stored.get(name) ?? DEFAULTS[name];
  for (const name of LISTS) state[name] = (stored.get(name) ?? "").split("|").filter(Boolean);
  if (!DATA.sets.some((set) => set.stem === state.set)) state.set = DEFAULTS.set;
}

/** Change the state, store it in the address, and draw what depends on it. */
function change(values) {
  Object.assign(state, values);
  const stored = new URLSearchParams();
  for (const name of Object.keys(DEFAULTS)) if (state[name] !== DEFAULTS[name]) stored.set(name, state[name]);
  for (const name of LISTS) if (state[name].length) stored.set(name, state[name].join("|"));
  history.replaceState(null, "", stored.size ? `#${stored}` : location.pathname + location.search);
  draw();
}

function toggled(list, item) {
  return list.includes(item) ? list.filter((other) => other !== item) : [...list, item];
}

function draw() {
  for (const listener of listeners) listener();
}

/** Preset of a table, with what its file's name has besides: "small-transformer". */
const protocol = (set) =>
  set.stem.startsWith(`${set.dataset}-`) ? set.stem.slice(set.dataset.length + 1) : set.preset;
const current = () => DATA.sets.find((set) => set.stem === state.set);

// ---- rows

const collapsed = (row) => row.numbers.collapsed;
const keepsZ = (row) => row.n > 0 && collapsed(row) === 0;
const difference = (row) => ({
  mean: row.numbers.difference[0],
  low: row.numbers.difference[1],
  high: row.numbers.difference[2],
  n: row.numbers.difference[3],
});
const isBehind = (row) => difference(row).low !== null && difference(row).low > 0;
const isAhead = (row) => difference(row).high !== null && difference(row).high < 0;
const converged = (row) => row.numbers.converged === 1;

/** Return what became of a row: the state that the matrix and the filters show. */
function status(row) {
  if (!row) return "not run";
  if (!row.n)
    return row.unfinished.length && row.unfinished.every((text) => text.includes("skipped"))
      ? "not applicable"
      : "not finished";
  if (row.numbers.mi[0] === null) return "no z";
  if (!converged(row)) return "not converged";
  return collapsed(row) === 0 ? "keeps z" : collapsed(row) === 1 ? "collapsed" : "some seeds";
}

// ---- numbers and marks

const fixed = (value, digits = 2) =>
  value === null || value === undefined
    ? "–"
    : (Math.abs(value) >= 1e6 ? value.toExponential(1) : value.toFixed(digits))
        .replace(/^-(?=[0.]*$)/, "")
        .replace("-", "−");
const signed = (value, digits = 2) => (value > 0 ? "+" : "") + fixed(value, digits);
const times = (value) => (value === null ? "–" : `${value < 10 ? value.toFixed(1) : value.toFixed(0)}×`);

function intervalText({ mean, low, high }) {
  if (mean === null) return "–";
  return signed(mean) + (low === null ? "" : ` [${fixed(low)}, ${fixed(high)}]`);
}

const color = (look) => (look ? (dark.matches ? look.color_dark : look.color_light) : "currentColor");

/** Return the marker of a row as inline SVG. */
function mark(row) {
  if (!row.look) return h("span", { class: "mark" });
  const box = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [name, value] of Object.entries({ viewBox: "-0.75 -0.75 1.5 1.5", class: "mark", "aria-hidden": "true" }))
    box.setAttribute(name, value);
  for (const [name, value] of Object.entries({
    d: row.look.path,
    fill: color(row.look),
    "fill-opacity": row.look.fill,
    stroke: color(row.look),
    "stroke-width": 0.13,
  }))
    path.setAttribute(name, value);
  box.append(path);
  return box;
}

/** Return the paired difference first − second of two rows, or null without common seeds. */
function pair(set, first, second) {
  const [i, j] = [first, second].map((id) => set.rows.findIndex((row) => row.id === id));
  for (const [a, b, mean, low, high, n] of set.pairs) {
    if (a === i && b === j) return { mean, low, high, n };
    if (a === j && b === i)
      return { mean: -mean, low: high === null ? null : -high, high: low === null ? null : -low, n };
  }
  return null;
}

// ---- downloads

function download(name, content, type) {
  const link = h("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const csvText = (value) =>
  value === null || value === undefined
    ? ""
    : /[",\n]/.test(value)
      ? `"${String(value).replaceAll('"', '""')}"`
      : String(value);

function downloadCsv(name, records) {
  const header = Object.keys(records[0] ?? {});
  download(
    `${name}.csv`,
    [header, ...records.map((record) => header.map((key) => record[key]))]
      .map((line) => line.map(csvText).join(","))
      .join("\n") + "\n",
    "text/csv",
  );
}

/** Download a figure: its SVG elements one below the other, on white or on the page's dark background. */
function downloadSvg(name, node) {
  const parts = node.matches("svg") ? [node] : [...node.querySelectorAll(":scope svg[width]")];
  const style = getComputedStyle(document.body);
  let top = 0;
  const copies = parts.map((part) => {
    const copy = part.cloneNode(true);
    copy.setAttribute("y", top);
    top += Number(part.getAttribute("height"));
    return copy.outerHTML;
  });
  const width = Math.max(...parts.map((part) => Number(part.getAttribute("width"))));
  const open = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${top}" color="${style.color}" font-family="system-ui, sans-serif">`;
  download(
    `${name}.svg`,
    `${open}<rect width="100%" height="100%" fill="${style.backgroundColor}"/>${copies.join("")}</svg>`,
    "image/svg+xml",
  );
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = "selected";
  }
}
