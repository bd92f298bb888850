// One task: its curves, its log, its evaluation, and what it was asked for.

import { chartSettings, Curves } from "../curves.js";
import { h } from "../dom.js";
import { bytes, duration, headline, number, secondsLeft, time } from "../format.js";
import { t } from "../i18n.js";
import { isFinal } from "../state.js";
import { evaluationCard } from "./evaluation.js";
import { LogPane } from "./log.js";
import { badge, bar, cell, choice, field, heads, nameOf } from "./parts.js";
import { provenanceCard } from "./provenance.js";

const FORMATS = ["csv", "jsonl", "tensorboard"];

/** Of the task looked at last: how its charts and its log are shown. */
let kept = { id: null };

export async function taskView(place, context, { id, query }) {
  const { api, state, signal, theme, onTheme, note } = context;
  if (kept.id !== id) kept = { id, charts: chartSettings(), log: { level: "", text: "" } };
  const settings = kept.charts;
  const head = h("div", { class: "head" });
  const tiles = h("div", { class: "tiles" });
  const notices = h("div");
  const charts = h("div", { class: "charts" });
  const below = h("div");
  let task;
  try {
    task = await api.status(id);
  } catch (error) {
    place.append(h("p", {}, error.status === 404 ? t("notFound", { id }) : error.message));
    return;
  }
  if (signal.aborted) return;

  const log = new LogPane({ api, taskId: id, kept: kept.log, onLine: (lineId) => curves.mark(lineId) });
  const curves = new Curves(charts, { api, taskId: id, texts: t, theme, settings, onPoint: (lineId) => log.open(lineId) });
  onTheme((changed) => curves.setTheme(changed));
  signal.addEventListener("abort", () => curves.destroy());
  const axes = [["epoch", t("epochAxis")], ["step", t("step")], ["time", t("time")]];
  const smoothing = h("input", {
    type: "range",
    min: 0,
    max: 0.99,
    step: 0.01,
    value: settings.smoothing,
    oninput: (event) => curves.set({ smoothing: Number(event.target.value) }),
  });
  const logScale = h("input", { type: "checkbox", checked: settings.logScale, onchange: (event) => curves.set({ logScale: event.target.checked }) });
  place.append(
    head,
    tiles,
    notices,
    h(
      "section",
      { id: "charts" },
      h(
        "div",
        { class: "tools" },
        h("h2", {}, t("charts")),
        field(t("axis"), choice(axes, settings.x, (x) => curves.set({ x }))),
        field(t("smoothing"), smoothing),
        h("label", { class: "check" }, logScale, t("logScale")),
        h("button", { onclick: () => curves.wholeRange() }, t("resetZoom")),
        h("span", { class: "faint" }, t("chartHint")),
      ),
      charts,
    ),
    log.node,
    below,
    provenanceCard(api, id),
  );

  function show() {
    head.replaceChildren(...header(task, context, again));
    tiles.replaceChildren(...summary(task));
    notices.replaceChildren(...troubles(task));
  }

  async function again() {
    task = await api.status(id);
    if (!signal.aborted) show();
  }

  async function showRest() {
    const { artifacts } = await api.ask("GET", api.task(id, "/artifacts"));
    const parts = [evaluationCard(api, id, artifacts), detailsCard(api, task, artifacts)];
    const [evaluation, details] = await Promise.all(parts);
    if (!signal.aborted) below.replaceChildren(evaluation, details);
  }

  show();
  state.on(
    "task",
    (changed) => {
      if (changed.task_id !== id) return;
      const hasEnded = !isFinal(task) && isFinal(changed);
      task = changed;
      show();
      if (hasEnded) showRest().catch(() => {});
    },
    signal,
  );
  state.on(
    "event",
    ({ type, data }) => {
      if (data.task_id ? data.task_id !== id : type !== "reset") return;
      if (type === "reset") curves.read({ again: true }).catch(() => {});
      if (type !== "log") curves.update();
      if (data.message !== undefined) log.add(data);
      if (data.deleted) context.go("#/");
      if (data.message?.startsWith("New best model saved")) showRest().catch(() => {});
    },
    signal,
  );
  try {
    const line = Number(query.get("line"));
    await Promise.all([curves.read(), line ? log.open(line) : log.read(), showRest()]);
    if (line) curves.mark(line);
  } catch (error) {
    note(t("failedRequest", { why: error.message }), "bad");
  }
}

function header(task, { api, note, go }, again) {
  const act = (method, path, text, then) => async () => {
    try {
      await api.ask(method, path);
      note(t(text));
      await then?.();
    } catch (error) {
      note(t("failedRequest", { why: error.message }), "bad");
    }
  };
  const link = api.task(task.task_id);
  const canStop = ["pending", "queued", "running"].includes(task.status);
  const canResume = ["failed", "cancelled"].includes(task.status) && task.task_type === "training";
  return [
    h("h1", {}, nameOf(task), " ", badge(task.status)),
    h(
      "div",
      { class: "actions" },
      canStop ? h("button", { onclick: act("POST", `${link}/stop`, "stopAsked", again) }, t("stop")) : null,
      canResume ? h("button", { onclick: act("POST", `${link}/resume`, "resumed", again) }, t("resume")) : null,
      h("a", { class: "button", href: `#/start?from=${encodeURIComponent(task.task_id)}` }, t("again")),
      isFinal(task)
        ? h("button", { onclick: () => confirm(t("confirmDelete")) && act("DELETE", link, "deleted", () => go("#/"))() }, t("delete"))
        : null,
      ...FORMATS.map((format) =>
        h(
          "a",
          { class: "button quiet", href: api.url(`${link}/metrics/export?format=${format}`), download: true },
          `${t("exportAs")} ${{ csv: "CSV", jsonl: "JSONL", tensorboard: "TensorBoard" }[format]}`,
        ),
      ),
    ),
  ].filter(Boolean);
}

function summary(task) {
  const metric = headline(task);
  const tile = (label, ...content) => h("div", { class: "tile" }, h("span", { class: "faint" }, label), h("b", {}, ...content));
  const epoch = task.total_epochs ? `${number(task.current_epoch ?? 0)} / ${task.total_epochs}` : number(task.current_epoch);
  return [
    tile(t("progress"), `${task.progress}% `, bar(task.progress)),
    tile(t("epoch"), epoch),
    metric ? tile(metric.name, metric.text) : null,
    task.latest_metrics.val_loss !== undefined && metric?.name !== "val_loss" ? tile("val_loss", number(task.latest_metrics.val_loss)) : null,
    tile(t("left"), duration(secondsLeft(task))),
    tile(t("device"), task.device),
  ].filter(Boolean);
}

function troubles(task) {
  return [
    task.error ? h("p", { class: "trouble bad" }, `${t("error")}: ${task.reason ?? ""} ${task.error}`) : null,
    ...(task.warnings ?? []).map((warning) => h("p", { class: "trouble" }, warning)),
  ].filter(Boolean);
}

async function detailsCard(api, task, files) {
  const request = await api.ask("GET", api.task(task.task_id, "/request"));
  const fields = Object.entries({ task_id: task.task_id, ...request.request }).map(([name, value]) =>
    h("tr", {}, h("th", { scope: "row" }, name), cell(typeof value === "string" ? value : JSON.stringify(value))),
  );
  const changes = (task.history ?? []).map((each) =>
    h(
      "tr",
      {},
      h("td", {}, badge(each.status)),
      cell(each.reason),
      cell(time(each.at)),
      cell(String(each.attempt ?? 1), { class: "number" }),
    ),
  );
  const rows = files.map((file) => {
    const href = api.url(api.task(task.task_id, `/artifacts/${encodeURIComponent(file.name)}`));
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, h("a", { href, download: file.name, "aria-label": t("download", { name: file.name }) }, file.name)),
      cell(bytes(file.size), { class: "number" }),
      cell(file.modified_at ? time(file.modified_at) : ""),
    );
  });
  return h(
    "section",
    { class: "card columns", id: "details" },
    h("div", {}, h("h2", {}, t("request")), h("table", { class: "plain" }, h("tbody", {}, ...fields))),
    h(
      "div",
      {},
      h("h2", {}, t("history")),
      h("table", {}, heads(t("status"), t("reason"), t("at"), t("attempt")), h("tbody", {}, ...changes)),
      h("h2", {}, t("files")),
      h("table", {}, heads(t("name"), t("size"), t("at")), h("tbody", {}, ...rows)),
    ),
  );
}
