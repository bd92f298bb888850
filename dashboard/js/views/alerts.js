// Rules, channels, and what has fired.

import { h } from "../dom.js";
import { time } from "../format.js";
import { t } from "../i18n.js";
import { cell, choice, field, heads, nameOf } from "./parts.js";

const KINDS = {
  status: [["statuses", "failed"]],
  threshold: [["condition", "val_loss > 2 for 3 epochs"]],
  not_finite: [["metric", ""]],
  no_improvement: [["metric", "val_acc"], ["epochs", "5"], ["goal", ""]],
  silence: [["minutes", "10"]],
  pattern: [["pattern", "(?i)out of memory"]],
};
const NUMBERS = new Set(["epochs", "minutes"]);
const ALERTS = "/api/v2/alerts";
const PAGE = 50;

/** What is typed into the form of rules, until one is added. */
let draft = { kind: "threshold", texts: {} };

export async function alertsView(place, { api, state, signal, note }) {
  const fired = h("div", { id: "fired" });
  const rules = h("div", { id: "rules" });
  const channels = h("div", { id: "channels" });
  const tellWhom = h("fieldset", { class: "check", hidden: true });
  const older = h("button", { onclick: () => readOlder().catch(() => {}), hidden: true }, t("older"));
  place.append(
    h("h1", {}, t("alerts")),
    h("section", { class: "card" }, h("h2", {}, t("fired")), fired, older),
    h("section", { class: "card" }, h("h2", {}, t("rules")), rules, ruleForm()),
    h("section", { class: "card" }, h("h2", {}, t("channels")), channels, channelForm()),
  );

  async function act(work, text) {
    try {
      const answer = await work();
      if (text) note(t(text));
      await read();
      return answer;
    } catch (error) {
      note(t("failedRequest", { why: error.message }), "bad");
      return null;
    }
  }

  const table = (label, head, rows) =>
    rows.length
      ? h(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
          h("table", {}, heads(...head), h("tbody", {}, ...rows)),
        )
      : h("p", { class: "faint" }, t("none"));

  function firing(each) {
    const task = state.tasks.get(each.task_id);
    const link = h("a", { href: `#/task/${encodeURIComponent(each.task_id)}` }, task ? nameOf(task) : each.task_id);
    const told = (each.deliveries ?? []).map((delivery) => t(`delivery_${delivery.state}`)).join(", ");
    const line = h("a", { href: `${link.getAttribute("href")}?line=${each.line_id}` }, each.message);
    return h("tr", {}, cell(time(each.at)), cell(each.rule_name), h("td", {}, link), h("td", {}, line), cell(told || "–"));
  }

  function rule(each) {
    const told = each.condition ?? condition(each);
    const toggle = h("input", {
      type: "checkbox",
      checked: each.enabled,
      "aria-label": t("enabledRule", { name: each.name }),
      onchange: (event) => act(() => api.ask("PATCH", `${ALERTS}/rules/${each.id}`, { enabled: event.target.checked })),
    });
    const remove = h("button", { onclick: () => act(() => api.ask("DELETE", `${ALERTS}/rules/${each.id}`), "deletedRule") }, t("delete"));
    const where = each.task_id ?? t("allTasks");
    return h("tr", {}, h("td", {}, toggle), h("th", { scope: "row" }, each.name), cell(told), cell(where), cell(each.action ?? "–"), h("td", {}, remove));
  }

  function channel(each) {
    const test = async () => {
      const answer = await act(() => api.ask("POST", `${ALERTS}/channels/${each.id}/test`));
      if (answer) note(answer.delivered ? t("delivered") : t("failedRequest", { why: answer.error }), answer.delivered ? "info" : "bad");
    };
    const remove = () => act(() => api.ask("DELETE", `${ALERTS}/channels/${each.id}`), "deletedRule");
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, each.name),
      cell(each.target),
      h("td", {}, h("div", { class: "actions" }, h("button", { onclick: test }, t("test")), h("button", { onclick: remove }, t("delete")))),
    );
  }

  function ruleForm() {
    const details = h("span", { class: "tools" });
    const keep = (key) => (event) => (draft.texts[key] = event.target.value);
    const name = h("input", { required: true, maxlength: 200, value: draft.texts.name ?? "", oninput: keep("name") });
    const task = h("input", { list: "task-ids", placeholder: t("allTasks"), value: draft.texts.task ?? "", oninput: keep("task") });
    const stop = h("input", { type: "checkbox" });
    const inputs = new Map();
    const goals = [["", t("goalByName")], ["min", t("goalMin")], ["max", t("goalMax")]];
    const show = () => {
      inputs.clear();
      details.replaceChildren(
        ...KINDS[draft.kind].map(([key, example]) => {
          const value = draft.texts[key] ?? (draft.kind === "status" ? example : "");
          const input =
            key === "goal" ? choice(goals, value, (chosen) => (draft.texts[key] = chosen)) : h("input", { placeholder: example, value, oninput: keep(key) });
          inputs.set(key, input);
          return field(t(`rule_${key}`), input);
        }),
      );
    };
    show();
    const add = async (event) => {
      event.preventDefault();
      const request = { name: name.value, kind: draft.kind };
      if (stop.checked) request.action = "stop";
      if (task.value.trim()) request.task_id = task.value.trim();
      for (const [key, input] of inputs) {
        const text = input.value.trim();
        if (text) request[key] = NUMBERS.has(key) ? Number(text) : key === "statuses" ? text.split(/[\s,]+/) : text;
      }
      request.channels = [...tellWhom.querySelectorAll("input:checked")].map((each) => Number(each.value));
      if (!(await act(() => api.ask("POST", `${ALERTS}/rules`, request), "addedRule"))) return;
      draft = { kind: draft.kind, texts: {} };
      name.value = task.value = "";
      show();
    };
    const kinds = Object.keys(KINDS).map((each) => [each, t(`kind_${each}`)]);
    return h(
      "form",
      { class: "tools", onsubmit: add, id: "rule-form" },
      field(t("name"), name),
      field(t("kind"), choice(kinds, draft.kind, (chosen) => {
        draft.kind = chosen;
        show();
      })),
      details,
      field(t("task"), task),
      h("datalist", { id: "task-ids" }, ...[...state.tasks.values()].map((each) => h("option", { value: each.task_id }, nameOf(each)))),
      h("label", { class: "check" }, stop, t("alsoStop")),
      tellWhom,
      h("button", { class: "main" }, t("add")),
    );
  }

  /** New rules tell every channel, but for those that are unticked. */
  function showWhom(places) {
    const unticked = new Set([...tellWhom.querySelectorAll("input:not(:checked)")].map((each) => each.value));
    const boxes = places.map(({ id, name }) =>
      h("label", { class: "check" }, h("input", { type: "checkbox", value: String(id), checked: !unticked.has(String(id)) }), name),
    );
    tellWhom.replaceChildren(...(boxes.length ? [h("legend", {}, t("tell")), ...boxes] : []));
    tellWhom.hidden = !boxes.length;
  }

  function channelForm() {
    const name = h("input", { required: true, maxlength: 200 });
    const url = h("input", { required: true, placeholder: "https://…" });
    const secret = h("input", { type: "password", minlength: 16, autocomplete: "new-password" });
    const add = async (event) => {
      event.preventDefault();
      const kind = /^https?:/.test(url.value) ? "webhook" : "apprise";
      const request = { name: name.value, kind, url: url.value };
      if (secret.value) request.secret = secret.value;
      if (await act(() => api.ask("POST", `${ALERTS}/channels`, request), "addedChannel")) url.value = secret.value = name.value = "";
    };
    return h(
      "form",
      { class: "tools", onsubmit: add, id: "channel-form" },
      field(t("name"), name),
      field(t("channelUrl"), url),
      field(t("channelSecret"), secret),
      h("button", { class: "main" }, t("add")),
    );
  }

  let shown = []; // what has fired, newest first
  function showFired() {
    const head = [t("at"), t("rule"), t("task"), t("message"), t("told")];
    fired.replaceChildren(table(t("fired"), head, shown.map(firing)));
  }

  async function readOlder() {
    const { alerts } = await api.ask("GET", `${ALERTS}?limit=${PAGE}&before=${shown.at(-1).id}`);
    if (signal.aborted) return;
    shown.push(...alerts);
    older.hidden = alerts.length < PAGE;
    showFired();
  }

  async function read() {
    const [firings, found, places] = await Promise.all([
      api.ask("GET", `${ALERTS}?limit=${PAGE}`),
      api.ask("GET", `${ALERTS}/rules`),
      api.ask("GET", `${ALERTS}/channels`),
    ]);
    if (signal.aborted) return;
    shown = firings.alerts;
    older.hidden = shown.length < PAGE;
    showFired();
    showWhom(places.channels);
    rules.replaceChildren(
      table(t("rules"), [t("enabled"), t("name"), t("condition"), t("task"), t("action"), t("delete")], found.rules.map(rule)),
    );
    channels.replaceChildren(
      table(t("channels"), [t("name"), t("target"), t("test")], places.channels.map(channel)),
    );
  }

  state.on(
    "event",
    ({ type }) => {
      if (type === "alert") read().catch(() => {});
    },
    signal,
  );
  await read().catch((error) => note(t("failedRequest", { why: error.message }), "bad"));
}

function condition(rule) {
  switch (rule.kind) {
    case "threshold":
      return `${rule.metric} ${rule.op} ${rule.value}${rule.for_epochs ? ` (${rule.for_epochs} ${t("epochs")})` : ""}`;
    case "status":
      return rule.statuses.map((each) => t(each)).join(", ");
    case "no_improvement":
      return `${t("kind_no_improvement")}: ${rule.metric}, ${rule.epochs} ${t("epochs")}`;
    case "silence":
      return `${t("kind_silence")}: ${rule.minutes} min`;
    case "pattern":
      return rule.pattern;
    default:
      return `${t("kind_not_finite")} ${rule.metric ?? ""}`;
  }
}
