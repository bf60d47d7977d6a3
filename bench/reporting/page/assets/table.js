"use strict";
// The table of the chosen data set: columns, filters, order, pinned rows, and the details of an opened row.

const GROUPS = ["Likelihood", "Information", "Inference", "Cost"];
const SEED_HEADINGS = DATA.seed_columns.map(
  (name) =>
    ({ nll: "NLL", iw_nll: "IW-NLL", kl: "KL", mi: "MI", au: "AU", train_seconds: "train (s)", flops: "FLOPs" })[
      name
    ] ?? name,
);

/** The columns shown: the six of the first view, then those of the chosen groups. */
function shownColumns(set) {
  const base = [
    {
      name: "difference",
      heading: `Δ${set.nll}`,
      note: `${set.nll} less that of ${set.baseline ?? "the baseline"}, and its 95 % interval over common seeds and test examples`,
      value: (row) => difference(row).mean,
      cell: (row) => [row.id === set.baseline ? "0 (baseline)" : intervalText(difference(row)), row.best],
    },
    fromEntry(set, "mi"),
    {
      name: "collapsed",
      heading: "collapsed",
      note: "share of the seeds with MI below 0.1 nats",
      value: collapsed,
      cell: (row) => [collapsed(row) === null ? "–" : `${Math.round(collapsed(row) * row.n)} of ${row.n}`],
    },
    {
      name: "cost",
      heading: "cost",
      note: `FLOPs counted in training, relative to ${set.baseline ?? "the baseline"}`,
      value: (row) => row.numbers.relative_cost,
      cell: (row) => [times(row.numbers.relative_cost)],
    },
    { name: "n", heading: "n", note: "finished seeds", value: (row) => row.n, cell: (row) => [String(row.n)] },
  ];
  const hidden = new Set(["mi", "collapsed", "relative_cost", "n"]);
  const more = set.columns.filter(
    (column) =>
      state.groups.includes(column.group) && !hidden.has(column.name) && !column.name.endsWith("_minus_baseline"),
  );
  return [...base.filter(Boolean), ...more.map((column) => fromEntry(set, column.name))];
}

function fromEntry(set, name) {
  const column = set.columns.find((other) => other.name === name);
  return (
    column && {
      ...column,
      value: (row) => row.entries[name]?.[2] ?? null,
      cell: (row) => [row.entries[name]?.[0] ?? "–", false, row.entries[name]?.[1]],
    }
  );
}

/** The rows that pass the filters, in the chosen order; rows without a number last. */
function shownRows(set) {
  const words = state.q.toLowerCase();
  const rows = set.rows.filter(
    (row) =>
      (!words || `${row.id} ${row.name} ${row.family}`.toLowerCase().includes(words)) &&
      (!state.families.length || state.families.includes(row.family)) &&
      (!state.use || collapsed(row) !== 1) &&
      (!state.best || row.best),
  );
  const column = shownColumns(set).find((other) => other.name === state.sort);
  if (state.sort === "method") rows.sort((a, b) => a.name.localeCompare(b.name));
  else if (column) rows.sort((a, b) => (column.value(a) ?? Infinity) - (column.value(b) ?? Infinity));
  if (state.down && (column || state.sort === "method")) rows.reverse();
  const missing = (row) => (column && column.value(row) === null ? 1 : 0);
  return rows.sort((a, b) => missing(a) - missing(b));
}

function tableSection() {
  const tabs = h("div", { class: "tabs", role: "tablist" }),
    tools = h("div", { class: "tools" }),
    notes = h("div"),
    pins = h("div", { class: "pins", "aria-live": "polite" });
  const search = h("input", {
    type: "search",
    placeholder: "search methods",
    "aria-label": "search methods",
    oninput: () => change({ q: search.value }),
  });
  const head = h("thead"),
    body = h("tbody");
  listeners.push(() => {
    const set = current(),
      columns = shownColumns(set);
    tabs.replaceChildren(
      ...DATA.sets.map((other) =>
        h(
          "button",
          {
            type: "button",
            role: "tab",
            "aria-selected": String(other === set),
            onclick: () => change({ set: other.stem, open: "", pins: [] }),
          },
          other.dataset,
          h("span", { class: "soft" }, ` ${protocol(other)}`),
        ),
      ),
    );
    if (search.value !== state.q) search.value = state.q;
    tools.replaceChildren(
      search,
      ...chips("families", [...new Set(set.rows.map((row) => row.family))].filter(Boolean)),
      chip("hide collapsed", state.use, () => change({ use: state.use ? "" : "1" })),
      chip("not significantly worse than the best", state.best, () => change({ best: state.best ? "" : "1" })),
      h("span", { class: "soft" }, "columns:"),
      ...chips(
        "groups",
        GROUPS.filter((group) => set.columns.some((column) => column.group === group)),
      ),
      h("button", { type: "button", onclick: () => downloadCsv(set.stem, tableRecords(set)) }, "CSV"),
    );
    head.replaceChildren(
      h(
        "tr",
        {},
        heading("method", "method", "pin two rows for their paired difference; open a row for its seeds"),
        columns.map((column) => heading(column.name, column.heading, column.note)),
      ),
    );
    const rows = shownRows(set);
    body.replaceChildren(
      ...rows.flatMap((row) => [
        tableRow(set, row, columns),
        ...(state.open === row.id
          ? [h("tr", { class: "detail" }, h("td", { colspan: columns.length + 1 }, details(set, row)))]
          : []),
      ]),
    );
    if (!rows.length) body.append(h("tr", {}, h("td", { colspan: columns.length + 1 }, "No row passes the filters.")));
    pins.replaceChildren(...pinText(set));
    notes.replaceChildren(...tableNotes(set));
  });
  return h(
    "section",
    { id: "table" },
    h("h2", {}, "Results"),
    tabs,
    tools,
    pins,
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Results" },
      h("table", { class: "results" }, head, body),
    ),
    notes,
  );
}

function chip(text, on, onclick) {
  return h("button", { type: "button", class: "chip", "aria-pressed": String(Boolean(on)), onclick }, text);
}

const chips = (list, names) =>
  names.map((name) => chip(name, state[list].includes(name), () => change({ [list]: toggled(state[list], name) })));

function heading(name, text, note) {
  const sorted = state.sort === name;
  const next = sorted && state.down ? { sort: "", down: "" } : { sort: name, down: sorted ? "1" : "" };
  return h(
    "th",
    { scope: "col", title: note, "aria-sort": sorted ? (state.down ? "descending" : "ascending") : null },
    h("button", { type: "button", onclick: () => change(next) }, text),
  );
}

function tableRow(set, row, columns) {
  const pinned = state.pins.includes(row.id),
    isOpen = state.open === row.id;
  const badges = [
    row.control && "control",
    row.n && !converged(row) && "not converged",
    row.n === 1 && "n = 1",
    row.unfinished.length && "unfinished",
  ].filter(Boolean);
  const name = h(
    "th",
    { scope: "row" },
    h(
      "button",
      {
        type: "button",
        class: "pin",
        "aria-pressed": String(pinned),
        "aria-label": `pin ${row.id}`,
        title: "pin",
        onclick: () => change({ pins: toggled(state.pins, row.id).slice(-2) }),
      },
      pinned ? "◆" : "◇",
    ),
    h(
      "button",
      {
        type: "button",
        class: "name",
        "aria-expanded": String(isOpen),
        title: row.id,
        onclick: () => change({ open: isOpen ? "" : row.id }),
      },
      mark(row),
      row.name,
    ),
    badges.map((text) => h("span", { class: "badge", title: row.unfinished.join("; ") || null }, text)),
  );
  return h(
    "tr",
    { "data-row": row.id, class: pinned ? "pinned" : null },
    name,
    columns.map((column) => {
      const [text, best, spread] = column.cell(row);
      return h(
        "td",
        { "data-label": column.heading, class: best ? "best" : null },
        text,
        spread ? h("span", { class: "soft" }, ` (${spread})`) : null,
      );
    }),
  );
}

function tableRecords(set) {
  const columns = shownColumns(set);
  return shownRows(set).map((row) => ({
    method: row.id,
    ...Object.fromEntries(columns.map((column) => [column.name, column.value(row)])),
    low: difference(row).low,
    high: difference(row).high,
    converged: row.numbers.converged,
  }));
}

/** Say how two pinned rows differ. */
function pinText(set) {
  const rows = state.pins.map((id) => set.rows.find((row) => row.id === id)).filter(Boolean);
  if (!rows.length) return [];
  const clear = h("button", { type: "button", onclick: () => change({ pins: [] }) }, "clear");
  if (rows.length === 1) return [h("p", {}, mark(rows[0]), rows[0].name, ": pin a second row to compare. ", clear)];
  const [first, second] = rows,
    value = pair(set, first.id, second.id);
  let text = "no seeds in common";
  if (value) {
    const difference =
      value.low === null
        ? "one common seed has no interval"
        : value.low > 0 || value.high < 0
          ? "significantly different"
          : "not significantly different";
    text = `${set.nll} ${intervalText(value)}, ${value.n} common seed${value.n === 1 ? "" : "s"}: ${difference}`;
  }
  return [
    h(
      "p",
      {},
      mark(first),
      first.name,
      " − ",
      mark(second),
      second.name,
      ": ",
      h("b", { class: "pair" }, text),
      " ",
      clear,
    ),
  ];
}

function tableNotes(set) {
  const best = set.rows.some((row) => row.best)
    ? [
        h(
          "p",
          { class: "soft" },
          `Bold: not significantly above the lowest ${set.nll} among rows that converged, with three seeds or more.`,
        ),
      ]
    : [];
  return [
    h("p", { class: set.assay.valid ? "assay" : "assay failed" }, set.assay.line),
    ...best,
    h(
      "details",
      {},
      h("summary", {}, "Notes, published numbers and settings"),
      h(
        "ul",
        { class: "soft" },
        set.notes.map((note) => h("li", {}, note)),
      ),
      set.reference ? plainTable(set.reference) : null,
      settingsList(set.settings),
    ),
  ];
}

function plainTable({ caption, header, rows }) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", {}, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          header.map((text) => h("th", { scope: "col" }, text)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map(([name, ...rest]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, name),
            rest.map((text) => h("td", {}, text)),
          ),
        ),
      ),
    ),
  );
}

const settingsList = (settings) =>
  Object.entries(settings).map(([name, values]) => [
    h("h4", {}, name),
    h(
      "p",
      { class: "soft" },
      Object.entries(values)
        .map(([key, value]) => `${key} = ${value}`)
        .join(", "),
    ),
  ]);
