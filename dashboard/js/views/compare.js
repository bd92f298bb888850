// Tasks side by side: their curves on one axis, best and last values, and what their requests differ in.

import { Chart, colour } from "../chart.js";
import { chartSettings, NO_CURVES } from "../curves.js";
import { h } from "../dom.js";
import { duration, number } from "../format.js";
import { t } from "../i18n.js";
import { badge, cell, choice, field, heads } from "./parts.js";

/** How the charts are shown, for the tasks compared last. */
let kept = { ids: null };

export async function compareView(place, { api, state, signal, theme, onTheme, note }, { query }) {
  const ids = (query.get("ids") ?? "").split(",").filter(Boolean);
  place.append(h("h1", {}, t("compare")));
  if (ids.length < 2) {
    place.append(h("p", { class: "faint" }, t("chooseTasks")));
    return;
  }
  const charts = h("div", { class: "charts" });
  const tables = h("div");
  const results = h("div");
  const group = new EventTarget();
  const drawn = new Map();
  let last = null;
  if (kept.ids !== ids.join()) kept = { ids: ids.join(), settings: chartSettings() };
  const { settings } = kept;
  const axes = [["epoch", t("epochAxis")], ["step", t("step")], ["time", t("time")]];
  const smoothing = h("input", {
    type: "range",
    min: 0,
    max: 0.99,
    step: 0.01,
    value: settings.smoothing,
    oninput: (event) => {
      settings.smoothing = Number(event.target.value);
      draw();
    },
  });
  const logScale = h("input", {
    type: "checkbox",
    checked: settings.logScale,
    onchange: (event) => {
      settings.logScale = event.target.checked;
      draw();
    },
  });
  place.append(
    h(
      "div",
      { class: "tools" },
      field(t("axis"), choice(axes, settings.x, (chosen) => {
        settings.x = chosen;
        for (const chart of drawn.values()) chart.zoomTo(null);
        read();
      })),
      field(t("smoothing"), smoothing),
      h("label", { class: "check" }, logScale, t("logScale")),
      h("button", { onclick: () => [...drawn.values()].forEach((chart) => chart.wholeRange()) }, t("resetZoom")),
    ),
    tables,
    charts,
    results,
  );
  signal.addEventListener("abort", () => [...drawn.values()].forEach((chart) => chart.destroy()));

  async function read() {
    try {
      last = await api.compare(ids, settings.x);
    } catch (error) {
      note(t("failedRequest", { why: error.message }), "bad");
      return;
    }
    if (signal.aborted) return;
    tables.replaceChildren(taskList(last, theme), differenceTable(last));
    results.replaceChildren(bestTable(last));
    await draw();
  }

  async function draw() {
    if (!last || signal.aborted) return;
    const filled = last.series.filter((each) => each.values.length && !NO_CURVES.has(each.name));
    const names = [...new Set(filled.map((each) => each.name))];
    const shownName = new Map(last.tasks.map((task) => [task.task_id, task.name ?? task.task_id]));
    const axisTitle = axes.find(([key]) => key === settings.x)[1];
    for (const name of names) {
      if (!drawn.has(name)) {
        const element = h("div", { class: "chart", role: "application", "aria-label": t("chartLabel", { names: name }) });
        charts.append(h("figure", { class: "card", "data-chart": name }, h("figcaption", {}, h("strong", {}, name)), element));
        const zoom = settings.zoom[name];
        drawn.set(name, new Chart(element, { title: name, group, theme, zoom, onZoom: (to) => (settings.zoom[name] = to) }));
      }
      const series = last.series
        .filter((each) => each.name === name)
        .map((each) => {
          const index = ids.indexOf(each.task_id);
          const dash = ["solid", "dash", "dot", "dashdot"][Math.floor(index / 8) % 4];
          return { ...each, key: each.task_id, name: shownName.get(each.task_id), colour: colour(index, theme), dash };
        });
      const { smoothing: weight, logScale: isLog } = settings;
      await drawn.get(name).show(series, { smoothing: weight, logScale: isLog, axisTitle });
    }
  }

  onTheme((changed) => {
    theme = changed;
    for (const chart of drawn.values()) chart.theme = theme;
    if (last) tables.replaceChildren(taskList(last, theme), differenceTable(last));
    draw();
  });

  let again = null;
  state.on(
    "task",
    (task) => {
      if (!ids.includes(task.task_id) || again) return;
      again = setTimeout(() => {
        again = null;
        read();
      }, 2000);
    },
    signal,
  );
  state.on("event", ({ type, data }) => type === "reset" && (!data.task_id || ids.includes(data.task_id)) && read(), signal);
  signal.addEventListener("abort", () => clearTimeout(again));
  await read();
}

function taskList({ tasks }, theme) {
  return h(
    "ul",
    { class: "compared" },
    ...tasks.map((task, index) => {
      const swatch = h("i", { class: "swatch" });
      swatch.style.background = colour(index, theme);
      const link = h("a", { href: `#/task/${encodeURIComponent(task.task_id)}` }, task.name ?? task.task_id);
      return h("li", {}, swatch, link, badge(task.status), h("span", { class: "faint" }, duration(task.duration_s)));
    }),
  );
}

function bestTable({ tasks, table }) {
  const rows = table.map((row) => {
    const bests = Object.values(row.tasks).map((each) => each.best).filter((value) => value !== undefined);
    const winner = row.goal === "min" ? Math.min(...bests) : Math.max(...bests);
    const cells = tasks.map((task) => {
      const value = row.tasks[task.task_id];
      if (!value) return cell("–", { class: "number" });
      if (value.best === undefined) return cell(`${t("last")} ${number(value.last)}`, { class: "number" });
      const isBest = value.best === winner && bests.length > 1;
      const where = [value.best_epoch === undefined ? "" : `${t("epoch")} ${number(value.best_epoch)}`];
      if (value.time_to_best_s !== undefined) where.push(t("toBest", { time: duration(value.time_to_best_s) }));
      return h(
        "td",
        { class: `number${isBest ? " winner" : ""}` },
        h("b", {}, number(value.best)),
        h("span", { class: "faint small" }, where.filter(Boolean).join(", ")),
        h("span", { class: "faint small" }, `${t("last")} ${number(value.last)}`),
      );
    });
    const unit = row.unit === "percent" ? " (%)" : "";
    return h("tr", {}, h("th", { scope: "row" }, `${row.metric}${unit} ${{ min: "↓", max: "↑" }[row.goal] ?? ""}`), ...cells);
  });
  return h(
    "section",
    { class: "card", id: "best" },
    h("h2", {}, t("table")),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": t("table") },
      h("table", {}, heads(t("metric"), ...tasks.map((task) => task.name ?? task.task_id)), h("tbody", {}, ...rows)),
    ),
  );
}

function differenceTable({ tasks, differences }) {
  const rows = differences.map(({ field: name, values }) => {
    const cells = tasks.map((task) => {
      const value = values[task.task_id];
      return cell(value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value));
    });
    return h("tr", {}, h("th", { scope: "row" }, name), ...cells);
  });
  const heading = h("h2", {}, t("differences"));
  if (!rows.length) return h("section", { class: "card" }, heading, h("p", { class: "faint" }, t("noDifferences")));
  return h(
    "section",
    { class: "card", id: "differences" },
    heading,
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": t("differences") },
      h("table", {}, heads(t("field"), ...tasks.map((task) => task.name ?? task.task_id)), h("tbody", {}, ...rows)),
    ),
  );
}
