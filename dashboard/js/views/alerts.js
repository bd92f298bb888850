// Rules, channels, and what has fired.

import { h } from "../dom.js";
import { time } from "../format.js";
import { t } from "../i18n.js";
import { cell, choice, field, heads, nameOf } from "./parts.js";

const KINDS = {
  status: [["statuses", "failed"]],
  threshold: [["condition", "val_loss > 2 for 3 epochs"]],
  not_finite: [["metric", ""]],
  no_improvement: [["metric", "val_acc"], ["epochs", "5"]],
  silence: [["minutes", "10"]],
  pattern: [["pattern", "(?i)out of memory"]],
};
const NUMBERS = new Set(["epochs", "minutes"]);
const ALERTS = "/api/v2/alerts";

export async function alertsView(place, { api, state, signal, note }) {
  const fired = h("div", { id: "fired" });
  const rules = h("div", { id: "rules" });
  const channels = h("div", { id: "channels" });
  place.append(
    h("h1", {}, t("alerts")),
    h("section", { class: "card" }, h("h2", {}, t("fired")), fired),
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
    return h("tr", {}, cell(time(each.at)), cell(each.rule_name), h("td", {}, link), cell(each.message), cell(told || "–"));
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
    let kind = "threshold";
    const details = h("span", { class: "tools" });
    const name = h("input", { required: true, maxlength: 200 });
    const stop = h("input", { type: "checkbox" });
    const inputs = new Map();
    const show = () => {
      inputs.clear();
      details.replaceChildren(
        ...KINDS[kind].map(([key, example]) => {
          const input = h("input", { placeholder: example, value: kind === "status" ? example : "" });
          inputs.set(key, input);
          return field(t(`rule_${key}`), input);
        }),
      );
    };
    show();
    const add = async (event) => {
      event.preventDefault();
      const request = { name: name.value, kind };
      if (stop.checked) request.action = "stop";
      for (const [key, input] of inputs) {
        const text = input.value.trim();
        if (text) request[key] = NUMBERS.has(key) ? Number(text) : key === "statuses" ? text.split(/[\s,]+/) : text;
      }
      request.channels = known.map((each) => each.id);
      if (await act(() => api.ask("POST", `${ALERTS}/rules`, request), "addedRule")) name.value = "";
    };
    const kinds = Object.keys(KINDS).map((each) => [each, t(`kind_${each}`)]);
    return h(
      "form",
      { class: "tools", onsubmit: add, id: "rule-form" },
      field(t("name"), name),
      field(t("kind"), choice(kinds, kind, (chosen) => {
        kind = chosen;
        show();
      })),
      details,
      h("label", { class: "check" }, stop, t("alsoStop")),
      h("button", { class: "main" }, t("add")),
    );
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

  let known = [];
  async function read() {
    const [firings, found, places] = await Promise.all([
      api.ask("GET", ALERTS),
      api.ask("GET", `${ALERTS}/rules`),
      api.ask("GET", `${ALERTS}/channels`),
    ]);
    if (signal.aborted) return;
    known = places.channels;
    fired.replaceChildren(
      table(t("fired"), [t("at"), t("rule"), t("task"), t("message"), t("told")], firings.alerts.map(firing)),
    );
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
