// Pieces that several views show.

import { h } from "../dom.js";
import { t } from "../i18n.js";

export const nameOf = (task) => task.name ?? task.task_id;

export function badge(status) {
  return h("span", { class: `badge ${status}` }, t(status));
}

export function bar(percent) {
  const filled = h("i");
  filled.style.width = `${percent}%`;
  const attributes = { role: "progressbar", "aria-valuenow": percent, "aria-valuemin": 0, "aria-valuemax": 100 };
  return h("span", { class: "bar", "aria-label": t("progress"), ...attributes }, filled);
}

export function field(label, control, extra = {}) {
  return h("label", { class: "field", ...extra }, h("span", {}, label), control);
}

export function choice(options, chosen, onchange) {
  return h(
    "select",
    { onchange: (event) => onchange(event.target.value) },
    ...options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
  );
}

export function cell(text, attributes = {}) {
  return h("td", attributes, text);
}

export function heads(...texts) {
  return h("thead", {}, h("tr", {}, ...texts.map((text) => h("th", { scope: "col" }, text))));
}
