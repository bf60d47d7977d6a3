"use strict";
// What an opened row of the table shows: method, settings, seeds, curves, samples and its command.

/** What an opened row shows: its method, settings, seeds, curves, samples, command. */
function details(set, row) {
  const method = DATA.methods[row.method],
    box = h("div", { class: "details" });
  if (method)
    box.append(
      h(
        "p",
        {},
        method.summary,
        ". ",
        method.link ? h("a", { href: method.link, rel: "noreferrer" }, method.citation) : method.citation,
      ),
    );
  if (row.settings) box.append(h("p", { class: "soft" }, `Settings: ${row.settings}.`));
  for (const note of [...row.notes, ...row.unfinished]) box.append(h("p", { class: "soft" }, `${note}.`));
  if (row.seeds.length) {
    const header = ["seed", "status", ...SEED_HEADINGS, "record"];
    const rows = row.seeds.map((seed) => [
      seed.seed,
      seed.status,
      ...seed.values.map((value, i) =>
        DATA.seed_columns[i] === "flops" && value
          ? value.toExponential(2)
          : fixed(value, ["collapsed", "converged", "updates", "au"].includes(DATA.seed_columns[i]) ? 0 : 2),
      ),
      seed.folder,
    ]);
    box.append(plainTable({ caption: "Seeds", header, rows }));
  }
  const charts = h(
    "div",
    { class: "small-charts" },
    ["elbo", "kl", "mi"].filter((name) => row.curves?.[name]).map((name) => curvePlot(set, [row], name, 260, 150)),
  );
  if (charts.children.length) box.append(h("h4", {}, "Validation over updates, mean over seeds"), charts);
  for (const [kind, source] of Object.entries(row.pictures))
    box.append(
      h(
        "figure",
        {},
        h("img", { src: source, alt: `${kind} of ${row.id}`, class: "strip" }),
        h("figcaption", {}, kind),
      ),
    );
  if (row.texts) box.append(texts(row.texts));
  if (row.command) {
    const button = h("button", { type: "button", onclick: () => copy(row.command, button) }, "copy");
    box.append(h("h4", {}, "Train this row again"), h("div", { class: "command" }, h("code", {}, row.command), button));
  }
  return box;
}

function texts({ seed, samples, reconstructions }) {
  const line = (text) => h("li", {}, text || "(empty)");
  return h(
    "div",
    {},
    h("h4", {}, `Samples from the prior, seed ${seed}`),
    h("ul", {}, samples.map(line)),
    reconstructions.length ? h("h4", {}, "Test sentence → greedy reconstruction from the posterior mean") : null,
    h(
      "ul",
      {},
      reconstructions.map((item) =>
        h("li", {}, item.original, h("br"), h("span", { class: "soft" }, `→ ${item.greedy || "(empty)"}`)),
      ),
    ),
  );
}
