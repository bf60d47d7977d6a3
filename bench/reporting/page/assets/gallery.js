"use strict";
// All figures by name, with their captions, the numbers to download, and their place on the page.

const rowRecords = (set) =>
  set.rows
    .filter((row) => row.n)
    .map((row) => ({
      method: row.id,
      n: row.n,
      mi: row.numbers.mi[0],
      mi_low: row.numbers.mi[1],
      mi_high: row.numbers.mi[2],
      difference: row.id === set.baseline ? 0 : difference(row).mean,
      low: difference(row).low,
      high: difference(row).high,
      cost: row.numbers.relative_cost,
      kl: row.numbers.kl,
      rec: row.numbers.rec,
      nll: row.numbers.nll,
    }));
const curveRecords = (set) =>
  set.rows
    .filter((row) => row.curves)
    .flatMap((row) =>
      row.curves.update.map((update, i) => ({
        method: row.id,
        update,
        ...Object.fromEntries(["elbo", "rec", "kl", "mi", "au"].map((name) => [name, row.curves[name]?.[i]])),
      })),
    );

const FIGURES = {
  decision: {
    name: "decision",
    draw: decision,
    records: rowRecords,
    caption: (set) =>
      `Use of z against likelihood: ${set.dataset}. Right of the shaded strip z is in use; at or below 0 nothing is lost to the basic VAE. Bars: 95 % intervals. Size: cost. Labels have the cost, in FLOPs of the basic VAE.`,
  },
  delta: {
    name: "nll-difference",
    draw: deltaForest,
    records: rowRecords,
    caption: (set) =>
      `${set.nll} less that of the basic VAE, with 95 % intervals over seeds and test examples. Left of 0 is better.`,
  },
  mi: {
    name: "mi",
    draw: miForest,
    records: rowRecords,
    caption: () => "Mutual information, with 95 % intervals over seeds. Left of the line the posterior has collapsed.",
  },
  cost: {
    name: "cost",
    draw: costFigure,
    records: rowRecords,
    caption: () => "Likelihood against cost. Dashed: rows that no cheaper row beats.",
  },
  rate: {
    name: "rate-distortion",
    draw: rateDistortion,
    records: rowRecords,
    caption: () => "Rate and distortion (Alemi et al., 2018). Points on a dotted line have the same ELBO.",
  },
  dynamics: {
    name: "dynamics",
    draw: dynamics,
    records: curveRecords,
    caption: () => "Training, on validation data: mean over seeds.",
  },
};

/** A figure with its caption and downloads, as wide as its place. */
function figureBox(figure, set, width) {
  const node = figure.draw(set, width);
  return h(
    "figure",
    { "data-figure": figure.name },
    node,
    h(
      "figcaption",
      {},
      figure.caption(set),
      " ",
      h("button", { type: "button", onclick: () => downloadSvg(`${set.stem}-${figure.name}`, node) }, "SVG"),
      " ",
      h(
        "button",
        { type: "button", onclick: () => downloadCsv(`${set.stem}-${figure.name}`, figure.records(set)) },
        "CSV",
      ),
    ),
  );
}

function figuresSection() {
  const box = h("div", { class: "figures" }),
    title = h("h2");
  listeners.push(() => {
    const set = current(),
      available = Math.max(320, box.clientWidth || 900),
      half = available > 900 ? available / 2 - 16 : available;
    title.textContent = `Figures: ${set.dataset}`;
    box.replaceChildren(
      ...[
        ["delta", half],
        ["mi", half],
        ["cost", half],
        ["rate", half],
        ["dynamics", available],
      ].map(([name, width]) => figureBox(FIGURES[name], set, width)),
    );
  });
  return h("section", { id: "figures" }, title, box);
}
