// <training-charts service="http://host:8000" task="ID"></training-charts>: the live curves of a task, in any page.
//
// Attributes: `service` (default: where this module comes from), `task`, `metrics` (names, separated by commas),
// `x` (epoch, step, time), `theme` (light, dark), `lang` (en, zh). A page from elsewhere must be among the service's
// ALLOWED_ORIGINS; where the service asks for a token, sign in first (POST /api/v1/session).

import { Api } from "./api.js";
import { Curves } from "./curves.js";
import { Follower } from "./events.js";
import { texts } from "./texts.js";

/** A page that has styles of its own gets those of the charts, once. */
function addStyles() {
  const charts = new URL("../charts.css", import.meta.url).href;
  if ([...document.styleSheets].some((sheet) => sheet.href === charts)) return;
  const link = document.createElement("link");
  Object.assign(link, { rel: "stylesheet", href: charts });
  if (new URL(charts).origin !== location.origin) link.crossOrigin = "anonymous";
  document.head.append(link);
}

class TrainingCharts extends HTMLElement {
  static observedAttributes = ["service", "task", "metrics", "x", "theme", "lang"];

  connectedCallback() {
    addStyles();
    this.begin();
  }

  disconnectedCallback() {
    this.end();
  }

  attributeChangedCallback() {
    if (this.isConnected && this.curves) this.begin();
  }

  async begin() {
    this.end();
    const taskId = this.getAttribute("task");
    if (!taskId) return;
    const home = new URL(import.meta.url).origin;
    const service = this.getAttribute("service") ?? home;
    const words = texts[this.getAttribute("lang") === "zh" ? "zh" : "en"];
    const translate = (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
    const names = this.getAttribute("metrics")?.split(",").map((name) => name.trim());
    const api = new Api(service === location.origin ? "" : service);
    this.classList.add("training-charts");
    this.replaceChildren();
    const curves = new Curves(this, {
      api,
      taskId,
      texts: translate,
      theme: this.getAttribute("theme") === "dark" ? "dark" : "light",
      only: names?.length ? names : null,
      base: import.meta.url,
      onPoint: (lineId) => this.dispatchEvent(new CustomEvent("point", { detail: { lineId } })),
    });
    this.curves = curves;
    curves.settings.x = this.getAttribute("x") ?? "epoch";
    try {
      const { event_id: after } = await api.ask("GET", "/api/v2/training?limit=1");
      await curves.read();
      if (this.curves !== curves) return;
      const onEvent = (type) => type !== "log" && curves.update();
      this.follower = new Follower(api, { after, ids: [taskId], onEvent });
    } catch (error) {
      if (this.curves === curves) this.replaceChildren(error.message);
    }
  }

  end() {
    this.follower?.close();
    this.curves?.destroy();
    this.follower = this.curves = null;
  }
}

customElements.define("training-charts", TrainingCharts);
