// Which classes were taken for which, in the best epoch.

import { h } from "../dom.js";
import { number } from "../format.js";
import { t } from "../i18n.js";
import { cell, heads } from "./parts.js";

const MOST_CLASSES = 60;
const SHADES = 8;

/** `files` are the task's artifacts: what is not there is not asked for. */
export async function evaluationCard(api, taskId, files) {
  if (!files.some((file) => file.kind === "evaluation")) {
    const text = h("p", { class: "faint" }, t("noEvaluation"));
    return h("section", { class: "card", id: "evaluation" }, h("h2", {}, t("evaluation")), text);
  }
  const evaluation = await api.ask("GET", api.task(taskId, "/evaluation"));
  return h(
    "section",
    { class: "card", id: "evaluation" },
    h("h2", {}, t("evaluation")),
    evaluation.classes.length <= MOST_CLASSES ? matrix(evaluation) : null,
    h("h3", {}, t("perClass")),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("perClass") }, perClass(evaluation)),
  );
}

function matrix({ classes, confusion_matrix: counts, epoch }) {
  const head = h("tr", {}, h("td"), ...classes.map((name) => h("th", { scope: "col" }, h("span", {}, name))));
  const rows = counts.map((row, index) => {
    const all = row.reduce((sum, count) => sum + count, 0) || 1;
    const cells = row.map((count, column) => {
      const shade = count ? Math.max(1, Math.ceil((count / all) * SHADES)) : 0;
      return h("td", { class: `shade-${shade}${index === column ? " right" : ""}` }, String(count));
    });
    return h("tr", {}, h("th", { scope: "row" }, classes[index]), ...cells);
  });
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": t("confusion") },
    h("h3", {}, t("confusion")),
    h("p", { class: "faint" }, t("confusionHint", { epoch })),
    h("table", { class: "confusion" }, h("thead", {}, head), h("tbody", {}, ...rows)),
  );
}

function perClass({ per_class: scores }) {
  const rows = scores.map((each) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, each.class),
      ...["support", "precision", "recall", "f1", "ap"].map((name) => cell(number(each[name]), { class: "number" })),
    ),
  );
  return h(
    "table",
    {},
    heads(t("class"), t("support"), t("precision"), t("recall"), t("f1"), t("ap")),
    h("tbody", {}, ...rows),
  );
}
