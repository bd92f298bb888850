// What a run was made from. Asked for when somebody wants to see it: packages are hundreds, a diff up to 1 MiB.

import { h } from "../dom.js";
import { bytes, time } from "../format.js";
import { t } from "../i18n.js";
import { cell, choice, field, heads } from "./parts.js";

/** Named first: what a training of images depends on most. */
const FIRST = ["torch", "torchvision", "numpy", "pillow"];

export function provenanceCard(api, taskId) {
  const content = h("div", { "aria-live": "polite" });
  let last = 1;
  async function read(attempt = "") {
    try {
      const record = await api.ask("GET", api.task(taskId, `/provenance${attempt && `?attempt=${attempt}`}`));
      last = Math.max(last, record.attempt ?? 1);
      content.replaceChildren(...(record.recorded_at ? parts(record) : [h("p", { class: "faint" }, t("notRecorded"))]));
      if (last > 1) content.prepend(field(t("attempt"), choice(attempts(last), String(record.attempt), read)));
    } catch (error) {
      content.replaceChildren(h("p", { class: "trouble bad" }, t("failedRequest", { why: error.message })));
    }
  }
  return h(
    "section",
    { class: "card", id: "provenance" },
    h("details", { ontoggle: (event) => event.target.open && read() }, h("summary", {}, h("h2", {}, t("provenance"))), content),
  );
}

const attempts = (last) => Array.from({ length: last }, (_, index) => [String(last - index), String(last - index)]);

function parts(record) {
  return [
    h(
      "div",
      { class: "columns" },
      h("div", {}, h("h3", {}, t("code")), facts(codeOf(record.code)), h("h3", {}, t("machine")), facts(machineOf(record))),
      h("div", {}, h("h3", {}, t("data")), ...dataOf(record.data), h("h3", {}, t("packages")), ...packagesOf(record)),
    ),
    ...(record.problems ?? []).map((problem) => h("p", { class: "trouble" }, problem)),
    record.code?.diff
      ? h("details", {}, h("summary", {}, t("diff")), h("pre", { class: "scroll", tabindex: "0" }, record.code.diff))
      : null,
  ].filter(Boolean);
}

function facts(pairs) {
  const rows = Object.entries(pairs).filter(([, value]) => value !== undefined && value !== "");
  if (!rows.length) return h("p", { class: "faint" }, t("unknown"));
  const cells = rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, t(`from_${name}`)), cell(String(value))));
  return h("table", { class: "plain" }, h("tbody", {}, ...cells));
}

function codeOf(code = {}) {
  const untracked = (code.untracked ?? []).join(", ") + (code.untracked_is_cut ? " …" : "");
  const changes = code.diff === undefined ? undefined : t(code.diff ? "changed" : "unchanged");
  return { commit: code.commit, branch: code.branch, changes, untracked, remote: code.remote, folder: code.root };
}

function machineOf(record) {
  const devices = (record.devices ?? []).map((each) => [each.device, each.model, bytes(each.memory_total)].filter(Boolean).join(" "));
  const seeds = Object.entries(record.seeds ?? {}).map(([name, seed]) => `${name}=${seed}`);
  return {
    recorded: time(record.recorded_at),
    host: record.host,
    platform: record.platform,
    cpu: [record.cpu, record.cpus && `× ${record.cpus}`].filter(Boolean).join(" "),
    devices: devices.join(", "),
    python: record.python && `${record.python.implementation} ${record.python.version}, ${record.python.executable}`,
    service: record.service,
    seeds: seeds.join(", "),
  };
}

function dataOf(data) {
  const rows = Object.entries(data ?? {}).map(([name, each]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      cell(each.files ?? "", { class: "number" }),
      cell(bytes(each.bytes), { class: "number" }),
      cell([each.sha256 ?? each.names_and_sizes ?? "", each.is_complete === false ? t("incomplete") : ""].join(" ").trim()),
    ),
  );
  if (!rows.length) return [h("p", { class: "faint" }, t("unknown"))];
  const table = h("table", { class: "plain" }, heads(t("name"), t("images"), t("size"), t("fingerprint")), h("tbody", {}, ...rows));
  return [h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("data") }, table)];
}

function packagesOf({ packages = {} }) {
  const names = Object.keys(packages);
  if (!names.length) return [h("p", { class: "faint" }, t("unknown"))];
  const table = (some) =>
    h("table", { class: "plain" }, h("tbody", {}, ...some.map((name) => h("tr", {}, h("th", { scope: "row" }, name), cell(packages[name])))));
  const first = names.filter((name) => FIRST.includes(name.toLowerCase()));
  const all = h("details", {}, h("summary", {}, t("allPackages", { count: names.length })), table(names));
  return first.length ? [table(first), all] : [all];
}
