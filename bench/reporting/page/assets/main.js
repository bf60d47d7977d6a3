"use strict";
// Claims, glossary, methods and provenance; then the first drawing.

function claimsSection() {
  const sets = DATA.sets.filter((set) => set.claims);
  if (!sets.length) return null;
  const rows = new Map(sets.flatMap((set) => set.claims.verdicts.map((item) => [item.id, item.claim])));
  const cell = (set, id) => {
    const item = set.claims.verdicts.find((other) => other.id === id);
    if (!item) return h("td", {}, "–");
    return h(
      "td",
      { class: `verdict ${item.verdict.split(" (")[0].replaceAll(" ", "-")}` },
      h("b", {}, item.verdict),
      h(
        "details",
        {},
        h("summary", {}, "evidence"),
        h("p", { class: "soft" }, item.evidence),
        h(
          "ul",
          { class: "soft" },
          item.details.map((text) => h("li", {}, text)),
        ),
      ),
    );
  };
  const notes = [...new Set(sets.flatMap((set) => set.claims.notes))];
  return h(
    "section",
    { id: "claims" },
    h("h2", {}, sets[0].claims.title),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Claims" },
      h(
        "table",
        { class: "claims" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "claim"),
            sets.map((set) =>
              h("th", { scope: "col" }, set.dataset, h("span", { class: "soft" }, ` ${protocol(set)}`)),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          [...rows].map(([id, text]) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, h("span", { class: "soft" }, `${id} `), text),
              sets.map((set) => cell(set, id)),
            ),
          ),
        ),
      ),
    ),
    notes.map((text) => h("p", { class: "soft" }, text)),
  );
}

function glossarySection() {
  const terms = new Map(
    DATA.sets.flatMap((set) =>
      set.columns.filter((column) => column.note).map((column) => [column.heading, column.note]),
    ),
  );
  return h(
    "section",
    { id: "glossary" },
    h("h2", {}, "Columns"),
    h(
      "p",
      { class: "soft" },
      "As in the first data set that has them; numbers of examples and samples differ between presets.",
    ),
    h(
      "dl",
      { class: "glossary" },
      [...terms].map(([term, text]) => h("div", {}, h("dt", {}, term), h("dd", {}, text))),
    ),
  );
}

function methodsSection() {
  const families = d3.groups(Object.entries(DATA.methods), ([, method]) => method.family);
  return h(
    "section",
    { id: "methods" },
    h("h2", {}, "Methods"),
    families.map(([family, methods]) =>
      h(
        "details",
        {},
        h("summary", {}, `${family} (${methods.length})`),
        methods.map(([name, method]) =>
          h(
            "article",
            { id: `method-${name}` },
            h("h3", {}, name),
            h(
              "p",
              {},
              method.summary,
              ". ",
              method.link ? h("a", { href: method.link, rel: "noreferrer" }, method.citation) : method.citation,
            ),
            h(
              "dl",
              {},
              method.about.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, codes(text)))),
            ),
          ),
        ),
      ),
    ),
  );
}

/** Return a text with the parts between double backticks as code. */
function codes(text) {
  return text.split("``").map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

function provenanceSection() {
  const commands = DATA.sets.flatMap((set) =>
    Object.entries(set.commands).map(([command, cells]) => ({ set, command, cells })),
  );
  const machines = d3.rollups(
    DATA.sets.flatMap((set) => Object.entries(set.environments)),
    (entries) => d3.sum(entries, ([, count]) => count),
    ([text]) => text,
  );
  return h(
    "section",
    { id: "provenance" },
    h("h2", {}, "Provenance"),
    machines.map(([text, count]) => h("p", { class: "soft" }, `${count} cell${count === 1 ? "" : "s"}: ${text}`)),
    h(
      "details",
      {},
      h("summary", {}, `Commands (${commands.length})`),
      commands.map(({ set, command, cells }) => {
        const button = h("button", { type: "button", onclick: () => copy(command, button) }, "copy");
        return [
          h("div", { class: "command" }, h("code", {}, command), button),
          h("p", { class: "soft" }, `${set.dataset}: ${cells.join("; ")}`),
        ];
      }),
    ),
  );
}

document
  .querySelector("main")
  .append(
    ...[
      answerSection(),
      matrixSection(),
      tableSection(),
      figuresSection(),
      claimsSection(),
      glossarySection(),
      methodsSection(),
      provenanceSection(),
    ].filter(Boolean),
  );
readState();
draw();
addEventListener("hashchange", () => {
  readState();
  draw();
});
dark.addEventListener("change", draw);
let timer;
addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(draw, 150);
});
