"use strict";
// The first screen: what the results say, one card per data set, and the decision figure of the chosen one.

function answerCard(set) {
  const best = set.answer.winners.map((id) => set.rows.find((row) => row.id === id)),
    shown = best.slice(0, 5);
  const chips = shown.map((row) =>
    h(
      "li",
      {},
      mark(row),
      h("b", {}, row.name),
      `: MI ${fixed(row.numbers.mi[0])}, cost ${times(row.numbers.relative_cost)}`,
    ),
  );
  return h(
    "button",
    {
      type: "button",
      class: "answer",
      "aria-pressed": String(set.stem === state.set),
      onclick: () => change({ set: set.stem, open: "", pins: [] }),
    },
    h(
      "span",
      { class: "answer-title" },
      set.dataset,
      h("span", { class: "soft" }, ` ${[set.size, set.preset].filter(Boolean).join(", ")}, ${seedRange(set)}`),
      set.answer.caveat ? h("span", { class: "ribbon", title: set.assay.line }, set.answer.caveat) : null,
    ),
    h("span", { class: "answer-text" }, set.answer.text),
    shown.length ? h("span", { class: "soft" }, `${set.answer.lead}; cost in FLOPs of the basic VAE:`) : null,
    shown.length
      ? h(
          "ul",
          { class: "winners" },
          chips,
          best.length > shown.length ? h("li", { class: "soft" }, `and ${best.length - shown.length} more`) : null,
        )
      : null,
  );
}

function seedRange(set) {
  const counts = set.rows.filter((row) => row.n).map((row) => row.n),
    [low, high] = d3.extent(counts);
  if (!counts.length) return "no seed finished";
  return `${low === high ? "" : `${low}–`}${high} seed${high === 1 ? "" : "s"}`;
}

function answerSection() {
  const cards = h("div", { class: "answers" }),
    figure = h("div", { class: "decision" });
  listeners.push(() => {
    cards.replaceChildren(...DATA.sets.map(answerCard));
    figure.replaceChildren(figureBox(FIGURES.decision, current(), Math.max(320, figure.clientWidth || 700)));
  });
  const choose =
    DATA.sets.length > 1 ? h("p", { class: "soft" }, "Choose a data set for the figures and the table:") : null;
  return h("section", { id: "answer", class: "first" }, h("div", {}, choose, cards), figure);
}

/** Methods × data sets: what became of every row, with its difference in NLL. */
function matrixSection() {
  const body = h("tbody"),
    ids = [...new Set(DATA.sets.flatMap((set) => set.rows.filter((row) => !row.control).map((row) => row.id)))];
  listeners.push(() => {
    body.replaceChildren(
      ...ids.map((id) => {
        const known = DATA.sets.map((set) => set.rows.find((row) => row.id === id));
        const first = known.find(Boolean);
        return h(
          "tr",
          {},
          h("th", { scope: "row" }, mark(first), first.name),
          known.map((row, i) => {
            const text = status(row),
              delta = row && row.n && id !== DATA.sets[i].baseline ? difference(row) : null;
            const significant = delta && delta.low !== null && (isBehind(row) || isAhead(row));
            return h(
              "td",
              { class: `state ${text.replaceAll(" ", "-")}`, title: row?.unfinished.join("; ") || null },
              h("span", { class: "word" }, text),
              delta && delta.mean !== null
                ? h("span", { class: significant ? "delta significant" : "delta" }, signed(delta.mean))
                : null,
            );
          }),
        );
      }),
    );
  });
  return h(
    "section",
    { id: "matrix" },
    h("h2", {}, "Methods × data sets"),
    h(
      "p",
      { class: "soft" },
      "Whether z is in use (MI of at least 0.1 nats in every seed), and the NLL less that of the basic VAE: in bold if its interval excludes 0.",
    ),
    h(
      "div",
      { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Methods by data set" },
      h(
        "table",
        { class: "matrix" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "method"),
            DATA.sets.map((set) =>
              h("th", { scope: "col" }, set.dataset, h("span", { class: "soft" }, ` ${protocol(set)}`)),
            ),
          ),
        ),
        body,
      ),
    ),
  );
}
