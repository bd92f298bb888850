// All tasks: find, sort, watch, choose for a comparison.

import { eachFrame, h } from "../dom.js";
import { duration, headline, number, secondsLeft, time } from "../format.js";
import { t } from "../i18n.js";
import { badge, bar, cell, choice, field, heads, nameOf } from "./parts.js";

const STATUSES = ["pending", "queued", "running", "stopping", "completed", "failed", "cancelled"];
/** Tasks without an accuracy or another score come last, in whatever order they were. */
const rank = (task) => headline(task)?.percent ?? -Infinity;
const SORTS = {
  newest: (one, other) => other.created_at.localeCompare(one.created_at),
  oldest: (one, other) => one.created_at.localeCompare(other.created_at),
  byProgress: (one, other) => other.progress - one.progress,
  byScore: (one, other) => rank(other) - rank(one) || 0,
  byName: (one, other) => nameOf(one).localeCompare(nameOf(other)),
};

/** What the list is narrowed to outlives a look at a task. */
const kept = { text: "", status: "", sort: "newest", selected: new Set() };

export function tasksView(place, { state, signal, go }) {
  const rows = new Map();
  const body = h("tbody");
  const count = h("span", { class: "faint", role: "status" });
  const none = h("p", { class: "faint" });
  const compare = h("button", { class: "main", onclick: () => go(`#/compare?ids=${[...kept.selected].join(",")}`) });
  const search = h("input", {
    type: "search",
    value: kept.text,
    placeholder: t("searchHint"),
    oninput: (event) => {
      kept.text = event.target.value;
      draw();
    },
  });
  const set = (name) => (value) => {
    kept[name] = value;
    draw();
  };
  const statuses = [["", t("anyStatus")], ...STATUSES.map((each) => [each, t(each)])];
  const sorts = Object.keys(SORTS).map((each) => [each, t(each)]);
  place.append(
    h("h1", {}, t("tasks")),
    h(
      "div",
      { class: "tools" },
      field(t("search"), search),
      field(t("status"), choice(statuses, kept.status, set("status"))),
      field(t("sort"), choice(sorts, kept.sort, set("sort"))),
      count,
      compare,
    ),
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        { class: "tasks" },
        heads("", t("name"), t("status"), t("progress"), t("epoch"), t("metric"), t("left"), t("device"), t("updated")),
        body,
      ),
    ),
    none,
  );

  function showSelected() {
    compare.textContent = t("compareSelected", { count: kept.selected.size });
    compare.disabled = kept.selected.size < 2;
  }

  function select(id, isSelected) {
    if (isSelected) kept.selected.add(id);
    else kept.selected.delete(id);
    showSelected();
  }

  function row(task) {
    const known = rows.get(task.task_id);
    if (known?.task === task) return known.node;
    const metric = headline(task);
    const name = nameOf(task);
    const epoch = task.total_epochs ? `${number(task.current_epoch ?? 0)}/${task.total_epochs}` : (task.current_epoch ?? "");
    const node = h(
      "tr",
      { "data-task": task.task_id },
      h(
        "td",
        {},
        h("input", {
          type: "checkbox",
          "aria-label": t("select", { name }),
          checked: kept.selected.has(task.task_id),
          onchange: (event) => select(task.task_id, event.target.checked),
        }),
      ),
      h("th", { scope: "row" }, h("a", { href: `#/task/${encodeURIComponent(task.task_id)}` }, name)),
      h("td", {}, badge(task.status)),
      h("td", { class: "wide" }, bar(task.progress), h("span", { class: "number" }, ` ${task.progress}%`)),
      cell(epoch, { class: "number" }),
      h("td", {}, metric ? [h("span", { class: "faint" }, `${metric.name} `), h("b", {}, metric.text)] : ""),
      cell(duration(secondsLeft(task)), { class: "number" }),
      cell(task.device),
      cell(time(task.updated_at), { class: "faint" }),
    );
    rows.set(task.task_id, { task, node });
    return node;
  }

  function matches(task) {
    if (kept.status && task.status !== kept.status) return false;
    const text = `${task.name ?? ""} ${task.task_id} ${task.device} ${task.description ?? ""}`.toLowerCase();
    return kept.text
      .toLowerCase()
      .split(/\s+/)
      .every((word) => text.includes(word));
  }

  const draw = eachFrame(() => {
    if (signal.aborted) return;
    const all = [...state.tasks.values()];
    const shown = all.filter(matches).sort(SORTS[kept.sort]);
    const nodes = shown.map(row);
    if (nodes.length !== body.children.length || nodes.some((node, index) => body.children[index] !== node)) {
      const focused = document.activeElement;
      body.replaceChildren(...nodes);
      if (body.contains(focused)) focused.focus();
    }
    count.textContent = t("countTasks", { count: shown.length, total: all.length });
    none.textContent = all.length ? (shown.length ? "" : t("noMatch")) : t("noTasks");
    showSelected();
  });
  for (const id of kept.selected) if (!state.tasks.has(id)) kept.selected.delete(id);
  state.on("tasks", draw, signal);
  draw();
}
