"use strict";
// The figures of the chosen data set, drawn by Observable Plot. Each can be downloaded as SVG and CSV.

const hasDelta = (set) => set.rows.filter((row) => row.n && (difference(row).mean !== null || row.id === set.baseline));
const delta = (row, set) => (row.id === set.baseline ? 0 : difference(row).mean);

function decision(set, width) {
  const rows = hasDelta(set).filter((row) => row.numbers.mi[0] !== null && !row.control),
    named = new Set(rows.length <= 8 ? rows.map((row) => row.id) : set.answer.winners.slice(0, 6));
  const ys = rows.flatMap((row) => [
    delta(row, set),
    ...(rows.length < 15 ? [difference(row).low, difference(row).high] : []),
  ]);
  const y = limits(ys, [0]),
    x = limits(
      rows.map((row) => row.numbers.mi[0]),
      [0, 0.3],
    );
  x[0] = Math.min(0, x[0]);
  const at = (row) => clamp(delta(row, set), y),
    across = (row) => clamp(row.numbers.mi[0], x);
  const cost = d3.scaleSqrt([1, d3.max(rows, (row) => row.numbers.relative_cost ?? 1) || 2], [6, 12]);
  const withInterval = rows.filter((row) => difference(row).low !== null);
  const height = Math.max(300, Math.min(460, width * 0.62));
  return Plot.plot(
    base({
      width,
      height,
      marginLeft: 52,
      marginRight: 20,
      marginTop: 30,
      marginBottom: 42,
      x: { label: "MI (nats): use of z →", domain: x },
      y: { label: `↑ Δ${set.nll} to the basic VAE (nats): lower is better`, domain: y },
      marks: [
        Plot.rect([0], { x1: x[0], x2: THRESHOLD, y1: y[0], y2: y[1], fill: shade() }),
        Plot.rect([0], { x1: THRESHOLD, x2: x[1], y1: 0, y2: y[1], fill: shade(), fillOpacity: 0.55 }),
        Plot.text([["collapsed"]], {
          x: x[0],
          y: y[0],
          text: "0",
          textAnchor: "start",
          lineAnchor: "bottom",
          dx: 4,
          dy: -4,
          fill: GREY,
          rotate: 0,
        }),
        Plot.text([["costs likelihood"]], {
          x: x[1],
          y: y[1],
          text: "0",
          textAnchor: "end",
          lineAnchor: "top",
          dx: -4,
          dy: 4,
          fill: GREY,
        }),
        Plot.ruleY([0], { stroke: GREY }),
        Plot.link(withInterval, {
          x1: across,
          x2: across,
          y1: (row) => clamp(difference(row).low, y),
          y2: (row) => clamp(difference(row).high, y),
          stroke: (row) => color(row.look),
          strokeOpacity: 0.45,
        }),
        ...rows.map((row) =>
          Plot.dot([row], {
            x: across,
            y: at,
            r: cost(row.numbers.relative_cost ?? 1),
            symbol: symbol(row),
            fill: color(row.look),
            fillOpacity: row.look?.fill,
            stroke: color(row.look),
            strokeWidth: 1.2,
          }),
        ),
        ...outliers(rows, (row) => delta(row, set), across, y, "y"),
        ...labels(
          rows.filter((row) => named.has(row.id) || row.id === set.baseline),
          across,
          at,
          (row) => (row.id === set.baseline ? row.name : `${row.name}, ${times(row.numbers.relative_cost)}`),
          { x, y, width, height, left: 52, right: 20, top: 30, bottom: 42 },
        ),
        Plot.tip(
          rows,
          Plot.pointer({
            x: across,
            y: at,
            title: (row) => tipText(set, row),
            fill: "var(--paper)",
            stroke: "var(--line)",
          }),
        ),
      ],
    }),
  );
}

const shorten = (text, length) => (text.length <= length ? text : `${text.slice(0, Math.max(1, length - 1))}…`);

/** A sorted forest: one line per row, mean and interval. */
function forest(set, width, rows, read, label, reference) {
  const sorted = d3.sort(rows, (row) => read(row).mean);
  const domain = limits(
    sorted.flatMap((row) => [read(row).mean, ...(sorted.length < 15 ? [read(row).low, read(row).high] : [])]),
    reference,
  );
  const y = (row) => row.id,
    x = (row) => clamp(read(row).mean, domain);
  const withInterval = sorted.filter((row) => read(row).low !== null && read(row).low !== undefined);
  const left = Math.min(0.45 * width, 14 + 6.4 * d3.max(sorted, (row) => row.name.length));
  const names = new Map(sorted.map((row) => [row.id, row.name]));
  return Plot.plot(
    base({
      width,
      height: 66 + 17 * sorted.length,
      marginBottom: 40,
      marginLeft: left,
      marginRight: 24,
      x: { label, domain, grid: true },
      y: {
        label: null,
        domain: sorted.map(y),
        tickFormat: (id) => shorten(names.get(id), (left - 12) / 6.4),
        tickSize: 0,
      },
      marks: [
        Plot.ruleX(reference, { stroke: GREY }),
        Plot.link(withInterval, {
          y1: y,
          y2: y,
          x1: (row) => clamp(read(row).low, domain),
          x2: (row) => clamp(read(row).high, domain),
          stroke: (row) => color(row.look),
          strokeWidth: 1.4,
        }),
        ...points(sorted, x, y, { r: 4, tip: (row) => tipText(set, row) }),
        ...outliers(sorted, (row) => read(row).mean, y, domain, "x"),
      ],
    }),
  );
}

const deltaForest = (set, width) =>
  forest(
    set,
    width,
    set.rows.filter((row) => row.n && difference(row).mean !== null),
    difference,
    `Δ${set.nll} to the basic VAE (nats) →`,
    [0],
  );
const miForest = (set, width) =>
  forest(
    set,
    width,
    set.rows.filter((row) => row.n && row.numbers.mi[0] !== null),
    ({ numbers: { mi } }) => ({ mean: mi[0], low: mi[1], high: mi[2] }),
    "MI (nats) →",
    [THRESHOLD],
  );

function costFigure(set, width) {
  const rows = hasDelta(set).filter((row) => row.numbers.relative_cost > 0 && !row.control);
  const y = limits(
      rows.map((row) => delta(row, set)),
      [0],
    ),
    at = (row) => clamp(delta(row, set), y),
    x = (row) => row.numbers.relative_cost;
  const front = [];
  for (const row of d3.sort(rows, x, (row) => delta(row, set)))
    if (!front.length || delta(row, set) < delta(front.at(-1), set)) front.push(row);
  return Plot.plot(
    base({
      width,
      height: 320,
      marginLeft: 52,
      marginRight: 60,
      marginBottom: 42,
      x: {
        label: "cost: FLOPs relative to the basic VAE →",
        type: "log",
        ticks: [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500],
        tickFormat: (value) => `${value}×`,
      },
      y: { label: `↑ Δ${set.nll} (nats)`, domain: y, grid: true },
      marks: [
        Plot.ruleY([0], { stroke: GREY }),
        Plot.line(front, { x, y: at, curve: "step-after", stroke: GREY, strokeDasharray: "4 3" }),
        ...points(rows, x, at, {
          tip: (row) => tipText(set, row),
          label: (row) => (front.includes(row) ? row.name : null),
        }),
        ...outliers(rows, (row) => delta(row, set), x, y, "y"),
      ],
    }),
  );
}

function rateDistortion(set, width) {
  const rows = set.rows.filter((row) => row.n && row.numbers.kl !== null && row.numbers.rec !== null);
  const x = limits(
      rows.map((row) => row.numbers.kl),
      [0],
    ),
    y = limits(rows.map((row) => row.numbers.rec));
  const across = (row) => clamp(row.numbers.kl, x),
    at = (row) => clamp(row.numbers.rec, y);
  const sums = d3.ticks(x[0] + y[0], x[1] + y[1], 8);
  return Plot.plot(
    base({
      width,
      height: 320,
      marginLeft: 52,
      marginRight: 30,
      marginBottom: 42,
      x: { label: "rate: KL (nats) →", domain: x },
      y: { label: "↑ distortion: rec (nats)", domain: y },
      clip: true,
      marks: [
        Plot.link(sums, {
          x1: x[0],
          x2: x[1],
          y1: (sum) => sum - x[0],
          y2: (sum) => sum - x[1],
          stroke: GREY,
          strokeOpacity: 0.5,
          strokeDasharray: "2 3",
          clip: "frame",
        }),
        ...points(rows, across, at, {
          tip: (row) => `${tipText(set, row)}\nKL ${fixed(row.numbers.kl)}, rec ${fixed(row.numbers.rec)}`,
        }),
        ...outliers(rows, (row) => row.numbers.kl, at, x, "x"),
        ...outliers(
          rows.filter((row) => !isOutside(row.numbers.kl, x)),
          (row) => row.numbers.rec,
          across,
          y,
          "y",
        ),
      ],
    }),
  );
}

/** The rows whose curves are shown: those chosen, else the first winners, else the rows with most MI. */
function curveRows(set) {
  const chosen = state.curves.map((id) => set.rows.find((row) => row.id === id)).filter(Boolean);
  if (chosen.length) return chosen;
  const others = d3.sort(
    set.rows.filter((row) => row.curves && row.id !== set.baseline && !row.control),
    (row) => -(row.numbers.mi[0] ?? -1),
  );
  return [
    ...new Set([...set.answer.winners.slice(0, 4).map((id) => set.rows.find((row) => row.id === id)), ...others]),
  ].slice(0, 4);
}

function dynamics(set, width) {
  const rows = curveRows(set),
    columns = width > 700 ? 3 : 1;
  const names = ["elbo", "kl", "mi"].filter((name) => rows.some((row) => row.curves?.[name]));
  const pick = h(
    "details",
    {},
    h("summary", {}, `Rows (${rows.length} of at most 6)`),
    h(
      "div",
      { class: "tools" },
      set.rows
        .filter((row) => row.curves && row.id !== set.baseline)
        .map((row) =>
          chip([mark(row), row.name], rows.includes(row), () =>
            change({
              curves: toggled(
                rows.map((other) => other.id),
                row.id,
              ).slice(-6),
            }),
          ),
        ),
    ),
  );
  return h(
    "div",
    {},
    h(
      "div",
      { class: "legend" },
      rows.map((row) => h("span", {}, mark(row), row.name)),
      set.baseline
        ? h("span", { class: "soft" }, `grey: ${set.rows.find((row) => row.id === set.baseline).name}`)
        : null,
    ),
    h(
      "div",
      { class: "small-charts" },
      names.map((name) => curvePlot(set, rows, name, width / columns - 12, 230)),
    ),
    pick,
  );
}
