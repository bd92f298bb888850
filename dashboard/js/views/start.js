// Starts a training, or one of the user's own commands. The service checks; its answers appear at their fields.

import { h, later } from "../dom.js";
import { t } from "../i18n.js";
import { choice } from "./parts.js";

const TRAINING = [
  ["model", "text", { list: "models", required: true }],
  ["num_classes", "number", { min: 2, required: true }],
  ["train_path", "text", { required: true }],
  ["val_path", "text", { required: true }],
  ["save_path", "text", { required: true }],
  ["name", "text", {}],
  ["preset", "text", { list: "presets", placeholder: "fast, balanced, accurate" }],
  ["num_epochs", "number", { min: 1, placeholder: "100" }],
  ["batch_size", "number", { min: 1, placeholder: "8" }],
  ["learning_rate", "number", { step: "any", placeholder: "0.0001" }],
  ["image_size", "number", { min: 1, placeholder: "224" }],
  ["device", "text", { placeholder: "cuda" }],
  ["priority", "number", { min: 1, max: 10, placeholder: "5" }],
];
const COMMAND = [
  ["command", "lines", { required: true }],
  ["working_dir", "text", { required: true }],
  ["name", "text", {}],
  ["device", "text", { placeholder: "cuda" }],
  ["priority", "number", { min: 1, max: 10, placeholder: "5" }],
];
const LABELS = { name: "runName", device: "device" };

/** What is in the form, as it is typed, until a task is started from it. */
let draft = null;

export async function startView(place, { api, signal, note, go }, { query }) {
  const from = query.get("from");
  if (draft?.from !== from) draft = null;
  let kind = draft?.kind ?? "training";
  let given = {};
  const [networks, old] = await Promise.all([
    api.ask("GET", "/api/v2/models").catch(() => ({ models: [] })),
    from ? api.ask("GET", api.task(from, "/request")).catch(() => null) : null,
  ]);
  if (signal.aborted) return;
  if (old) {
    if (!draft) kind = old.kind === "command" ? "command" : "training";
    given = { ...old.request };
    delete given.task_id;
    delete given.name; // its folder is taken
  }
  const checkSoon = later(300, () => check({ isWhole: false }));
  const form = h("form", { class: "card form", novalidate: true, onsubmit: submit, oninput: changed });
  const inputs = new Map();
  const errors = new Map();
  const touched = new Set(draft?.touched);
  let turn = 0; // of what is asked: an answer to what was in the form before is dropped
  place.append(
    h("h1", {}, t("start")),
    h("datalist", { id: "presets" }, ...["fast", "balanced", "accurate"].map((value) => h("option", { value }))),
    h("datalist", { id: "models" }, ...networks.models.map(({ name }) => h("option", { value: name }))),
    form,
  );
  draw();
  for (const [name, text] of draft?.texts ?? []) if (inputs.has(name)) inputs.get(name)[0].value = text;
  if (touched.size) check({ isWhole: false });

  function keep() {
    draft = { from, kind, texts: [...inputs].map(([name, [input]]) => [name, input.value]), touched: [...touched] };
  }

  function changed(event) {
    const name = [...inputs.keys()].find((each) => inputs.get(each)[0] === event.target);
    if (!name) return;
    touched.add(name);
    keep();
    checkSoon();
  }

  function control([name, type, attributes]) {
    const id = `field-${name}`;
    const text = given[name];
    const common = { id, name, "aria-describedby": `${id}-error`, ...attributes };
    const input =
      type === "lines"
        ? h("textarea", { ...common, rows: 4, value: (text ?? []).join("\n") })
        : h("input", { ...common, type, value: text ?? "", autocomplete: "off", spellcheck: "false" });
    const error = h("span", { class: "bad", id: `${id}-error` });
    inputs.set(name, [input, type]);
    errors.set(name, error);
    return h("div", { class: "field" }, h("label", { for: id }, t(LABELS[name] ?? name)), input, error);
  }

  function draw() {
    inputs.clear();
    errors.clear();
    const fields = kind === "command" ? COMMAND : TRAINING;
    const known = new Set(fields.map(([name]) => name));
    const rest = Object.fromEntries(Object.entries(given).filter(([name]) => !known.has(name)));
    const more = h("textarea", {
      id: "field-more",
      rows: 5,
      spellcheck: "false",
      value: Object.keys(rest).length ? JSON.stringify(rest, null, 2) : "",
      placeholder: '{"augment": false, "max_runtime_s": 3600}',
      "aria-describedby": "field-more-error",
    });
    inputs.set("more", [more, "json"]);
    errors.set("more", h("span", { class: "bad", id: "field-more-error" }));
    const kinds = [["training", t("kindTraining")], ["command", t("kindCommand")]];
    form.replaceChildren(
      h("div", { class: "field" }, h("label", {}, t("kindTraining"), " / ", t("kindCommand"), choice(kinds, kind, (chosen) => {
        given = { ...given, ...safeBody() };
        kind = chosen;
        touched.clear();
        draw();
        keep();
      }))),
      ...fields.map(control),
      h("div", { class: "field wide" }, h("label", { for: "field-more" }, t("more")), more, errors.get("more")),
      h("p", { class: "bad wide", role: "alert", id: "form-error" }),
      h("p", { class: "faint wide", role: "status", id: "form-checked" }),
      h(
        "div",
        { class: "actions wide" },
        h("button", { class: "main" }, t("startNow")),
        h("button", { type: "button", onclick: () => check({ isWhole: true }) }, t("check")),
        h("button", { type: "button", onclick: copy }, t("copyCurl")),
      ),
    );
  }

  /** The request that the form says. Fields that are empty are left to the service. */
  function body() {
    const request = {};
    for (const [name, [input, type]] of inputs) {
      const text = input.value.trim();
      if (!text) continue;
      if (type === "json") {
        const parsed = JSON.parse(text);
        if (parsed === null || Array.isArray(parsed) || typeof parsed !== "object") throw new SyntaxError();
        Object.assign(request, parsed);
      } else if (type === "lines") request[name] = input.value.split("\n").filter((line) => line !== "");
      else request[name] = type === "number" && Number.isFinite(Number(text)) ? Number(text) : text;
    }
    return request;
  }

  function safeBody() {
    try {
      return body();
    } catch {
      return {};
    }
  }

  function tell(problems, text, { isQuiet = false } = {}) {
    form.querySelector("#form-checked").textContent = "";
    for (const [name, error] of errors) {
      const found = problems.filter((problem) => problem.field.split(".")[0] === name && (!isQuiet || touched.has(name)));
      error.textContent = found.map((problem) => problem.message).join("; ");
      inputs.get(name)[0].setAttribute("aria-invalid", String(found.length > 0));
    }
    if (isQuiet) {
      form.querySelector("#form-error").textContent = "";
      return;
    }
    const elsewhere = problems.filter((problem) => !errors.has(problem.field.split(".")[0]));
    const rest = elsewhere.map((problem) => `${problem.field}: ${problem.message}`).join("; ");
    form.querySelector("#form-error").textContent = [text, rest].filter(Boolean).join(" ");
    form.querySelector("[aria-invalid=true]")?.focus();
  }

  function read(options) {
    try {
      return body();
    } catch {
      tell([{ field: "more", message: t("badJson") }], "", options);
      return null;
    }
  }

  /** What the service would say: while somebody types of the fields that are filled in, else of all. */
  async function check({ isWhole }) {
    if (isWhole) for (const name of inputs.keys()) touched.add(name); // their problems stay until they are mended
    const asked = ++turn;
    const request = read({ isQuiet: !isWhole });
    if (!request || signal.aborted) return;
    let problems = [];
    let text = "";
    let checked = null;
    try {
      checked = await api.ask("POST", "/api/v2/training/check", request);
    } catch (error) {
      problems = error.fields ?? [];
      text = problems.length ? t("fixFields") : error.message;
    }
    if (asked !== turn || signal.aborted) return;
    tell(problems, text, { isQuiet: !isWhole });
    if (checked) form.querySelector("#form-checked").textContent = [t("checked", checked), ...checked.warnings].join(" ");
  }

  async function submit(event) {
    event.preventDefault();
    turn += 1;
    for (const name of inputs.keys()) touched.add(name);
    const request = read();
    if (!request) return;
    try {
      const task = await api.ask("POST", "/api/v2/training/start", request);
      draft = null;
      go(`#/task/${encodeURIComponent(task.task_id)}`);
    } catch (error) {
      tell(error.fields ?? [], error.fields?.length ? t("fixFields") : error.message);
    }
  }

  async function copy() {
    const request = read();
    if (!request) return;
    const quoted = JSON.stringify(request, null, 2).replaceAll("'", String.raw`'\''`);
    const curl = `curl -X POST ${location.origin}/api/v2/training/start \\\n  -H "Content-Type: application/json" \\\n  -d '${quoted}'`;
    await navigator.clipboard.writeText(curl);
    note(t("copied"));
  }
}
