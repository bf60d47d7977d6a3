"use strict";
// What the figures share: markers, axes that one far point does not stretch, labels, and curves.

const GREY = "#8a8a93"; // on a light and on a dark page
const shade = () => (dark.matches ? "#24252b" : "#f1f1f4");
const symbolCache = new Map();

/** Return the marker of a row as a d3 symbol type; its path has lines and Bézier curves only. */
function symbol(row) {
  const path = row.look?.path ?? "M-0.5 0L0.5 0";
  if (!symbolCache.has(path)) {
    const commands = [...path.matchAll(/([MLQCZ])([^MLQCZ]*)/g)].map(([, letter, numbers]) => [
      letter,
      numbers
        .trim()
        .split(/[\s,]+/)
        .filter(Boolean)
        .map(Number),
    ]);
    symbolCache.set(path, {
      draw(context, size) {
        const k = Math.sqrt(size);
        for (const [letter, numbers] of commands) {
          const points = numbers.map((value) => value * k);
          if (letter === "M") context.moveTo(...points);
          else if (letter === "L") context.lineTo(...points);
          else if (letter === "Q") context.quadraticCurveTo(...points);
          else if (letter === "C") context.bezierCurveTo(...points);
          else context.closePath();
        }
      },
    });
  }
  return symbolCache.get(path);
}

/** Return the marks that draw rows as points: a mean with its marker, and what a pointer shows. */
function points(rows, x, y, { r = 5, label = () => null, tip }) {
  const marks = rows.map((row) =>
    Plot.dot([row], {
      x,
      y,
      r,
      symbol: symbol(row),
      fill: color(row.look),
      fillOpacity: row.look?.fill,
      stroke: color(row.look),
      strokeWidth: 1.2,
    }),
  );
  const named = rows.filter((row) => label(row));
  return [
    ...marks,
    Plot.text(named, {
      x,
      y,
      text: label,
      dx: 9,
      textAnchor: "start",
      stroke: "var(--paper)",
      fill: "currentColor",
      strokeWidth: 3,
    }),
    Plot.tip(rows, Plot.pointer({ x, y, title: tip, fill: "var(--paper)", stroke: "var(--line)" })),
  ];
}

function tipText(set, row) {
  const lines = [
    row.name,
    `Δ${set.nll} ${row.id === set.baseline ? "0 (baseline)" : intervalText(difference(row))}`,
    `MI ${fixed(row.numbers.mi[0])}`,
    `cost ${times(row.numbers.relative_cost)}, n = ${row.n}`,
  ];
  if (row.n && !converged(row)) lines.push("not converged");
  return lines.join("\n");
}

/** Limits of an axis that one far point does not stretch: whiskers at three times the range of the quartiles. */
function limits(values, include = []) {
  const sorted = values.filter((value) => value !== null && Number.isFinite(value)).sort(d3.ascending);
  if (!sorted.length) return [0, 1];
  const [low, high] = [d3.quantileSorted(sorted, 0.25), d3.quantileSorted(sorted, 0.75)],
    reach = 3 * (high - low || Math.abs(high) || 1);
  const kept = [...sorted.filter((value) => value >= low - reach && value <= high + reach), ...include];
  const [first, last] = d3.extent(kept),
    margin = 0.06 * (last - first || 1);
  return [first - margin, last + margin];
}

const clamp = (value, [low, high]) => (value === null ? null : Math.min(high, Math.max(low, value)));
const isOutside = (value, [low, high]) => value !== null && (value < low || value > high);
const base = (options) => ({
  style: { background: "none", fontSize: "12px", fontFamily: "system-ui, sans-serif", overflow: "visible" },
  ...options,
});

/** Place labels above or below their points, so that they do not cover each other or leave the frame. */
function labels(rows, x, y, text, { x: domainX, y: domainY, width, height, left, right, top, bottom }) {
  const scaleX = d3.scaleLinear(domainX, [left, width - right]),
    scaleY = d3.scaleLinear(domainY, [height - bottom, top]),
    placed = [];
  return d3
    .sort(rows, (row) => -x(row))
    .map((row) => {
      const half = 3.4 * text(row).length,
        px = scaleX(x(row)),
        py = scaleY(y(row)),
        center = Math.min(width - right - half, Math.max(left + half, px));
      const boxes = [-18, 20, -36, 38, -54, 56, -72, 74, -90, 92].map((dy) => ({
        dy,
        x1: center - half,
        x2: center + half,
        y1: py + dy - 9,
        y2: py + dy + 9,
      }));
      const isFree = (box) =>
        box.y1 > top &&
        box.y2 < height - bottom &&
        !placed.some((other) => box.x1 < other.x2 && other.x1 < box.x2 && box.y1 < other.y2 && other.y1 < box.y2);
      const box = boxes.find(isFree) ?? boxes[0];
      placed.push(box);
      return Plot.text([row], {
        x,
        y,
        text,
        dx: center - px,
        dy: box.dy,
        stroke: "var(--paper)",
        strokeWidth: 4,
        fill: "currentColor",
        textAnchor: "middle",
      });
    });
}

/** Mark points outside the axis by an arrow at its end, with their value. */
function outliers(rows, value, other, domain, axis) {
  const far = rows.filter((row) => isOutside(value(row), domain));
  const text = (row) =>
    `${value(row) > domain[1] ? (axis === "y" ? "↑" : "→") : axis === "y" ? "↓" : "←"} ${fixed(value(row))}`;
  const place =
    axis === "y"
      ? { x: other, y: (row) => clamp(value(row), domain), dy: 14 }
      : { y: other, x: (row) => clamp(value(row), domain), dx: -12, textAnchor: "end" };
  return [Plot.text(far, { ...place, text, fill: "currentColor", stroke: "var(--paper)", strokeWidth: 3 })];
}

/** One curve over updates: at most six rows, the baseline in grey behind them. */
function curvePlot(set, rows, name, width, height) {
  const titles = { elbo: "ELBO (nats)", rec: "rec (nats)", kl: "KL (nats)", mi: "MI (nats)", au: "active units" };
  const baseline = set.rows.find((row) => row.id === set.baseline && !rows.includes(row));
  const lines = [baseline, ...rows].filter((row) => row?.curves?.[name]);
  const values = lines.flatMap((row) => row.curves[name]);
  const data = lines.flatMap((row) =>
    row.curves.update
      .map((update, i) => ({ row, update, value: row.curves[name][i] }))
      .filter((point) => point.value !== null),
  );
  if (!data.length) return document.createElement("span");
  const named = rows.filter(
    (row) => lines.includes(row) && rows.some((other) => other !== row && other.method === row.method),
  ); // distinguished by a label
  const ends = named.map((row) => data.findLast((point) => point.row === row));
  const domain = name === "elbo" || name === "rec" ? limits(values) : [0, limits(values, [0])[1]];
  return Plot.plot(
    base({
      width,
      height,
      marginLeft: 44,
      marginBottom: 40,
      marginRight: named.length ? 66 : 20,
      x: { label: "updates →", ticks: 4 },
      y: { label: `↑ ${titles[name]}`, domain, grid: true },
      marks: lines
        .map((row) =>
          Plot.line(
            data.filter((point) => point.row === row),
            {
              x: "update",
              y: (point) => clamp(point.value, domain),
              stroke: row === baseline ? GREY : color(row.look),
              strokeWidth: row === baseline ? 2.5 : 1.6,
              strokeOpacity: row === baseline ? 0.5 : 1,
              strokeDasharray: row.look?.dashes.length ? row.look.dashes.map((length) => 1.6 * length).join(" ") : null,
            },
          ),
        )
        .concat(
          Plot.text(ends, {
            x: "update",
            y: (point) => clamp(point.value, domain),
            text: (point) => point.row.name.match(/\((.*)\)/)?.[1] ?? point.row.name,
            dx: 5,
            textAnchor: "start",
            fill: (point) => color(point.row.look),
          }),
          Plot.tip(
            data,
            Plot.pointer({
              x: "update",
              y: "value",
              title: (point) => `${point.row.name}\n${point.update} updates: ${fixed(point.value)}`,
              fill: "var(--paper)",
              stroke: "var(--line)",
            }),
          ),
        ),
    }),
  );
}
