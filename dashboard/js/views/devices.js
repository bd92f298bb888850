// What runs and waits on each device, and how much may.

import { h } from "../dom.js";
import { bytes } from "../format.js";
import { t } from "../i18n.js";
import { nameOf } from "./parts.js";

export async function devicesView(place, { api, state, signal, note }) {
  const cards = h("div", { class: "charts" });
  const queue = h("p", { class: "faint", role: "status" });
  place.append(h("h1", {}, t("devices")), queue, cards);

  const link = (id) => {
    const task = state.tasks.get(id);
    return h("li", {}, h("a", { href: `#/task/${encodeURIComponent(id)}` }, task ? nameOf(task) : id));
  };

  function card(device) {
    const limit = h("input", {
      type: "number",
      min: 0,
      max: 256,
      value: device.limit,
      "aria-label": t("limitOf", { device: device.device }),
    });
    const set = async (event) => {
      event.preventDefault();
      try {
        await api.ask("POST", "/api/v2/resources", { limits: { [device.device]: Number(limit.value) } });
        await read();
      } catch (error) {
        note(t("failedRequest", { why: error.message }), "bad");
      }
    };
    const used = device.memory_total
      ? h("p", {}, `${t("memory")}: ${bytes(device.memory_used)} / ${bytes(device.memory_total)}`)
      : null;
    return h(
      "section",
      { class: "card", "data-device": device.device },
      h("h2", {}, device.device, device.model ? ` · ${device.model}` : ""),
      used,
      h("form", { class: "tools", onsubmit: set }, h("span", {}, t("limit")), limit, h("button", {}, t("setLimit"))),
      h("h3", {}, `${t("runningHere")} (${device.running.length})`),
      h("ol", {}, ...device.running.map(link)),
      h("h3", {}, `${t("waitingHere")} (${device.queued.length})`),
      h("ol", {}, ...device.queued.map(link)),
    );
  }

  async function read() {
    const found = await api.ask("GET", "/api/v2/resources");
    if (signal.aborted || cards.contains(document.activeElement)) return;
    queue.textContent = `${t("queue")}: ${t("queueLength", { length: found.queue.length, max: found.queue.max_length })}`;
    cards.replaceChildren(...found.devices.map(card));
  }

  state.on("tasks", () => read().catch(() => {}), signal);
  await read().catch((error) => note(t("failedRequest", { why: error.message }), "bad"));
}
