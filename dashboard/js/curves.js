// The charts of one task, history first and then live: what the dashboard and `<training-charts>` both show.

import { Chart, colour } from "./chart.js";
import { h, seldom } from "./dom.js";

const PREFIX = /^(train|val|valid|validation|test|eval|best|macro|micro)[_/-]/;
const TOP_K = /^top[-_]?\d+[_/-]/;
export const NO_CURVES = new Set(["eta"]);

export const chartSettings = () => ({ x: "epoch", smoothing: 0, logScale: false, zoom: {} });

/** Metrics that belong into one chart: training and validation, the averages of one score, all top-k accuracies. */
export const groupOf = (name) => name.replace(PREFIX, "").replace(TOP_K, "top-k ");

const isTraining = (name) => name.startsWith("train");

/** Columns of two answers, one behind the other. */
function joined(before, after) {
  const result = { ...before };
  for (const column of ["ids", "x", "values"]) result[column] = [...before[column], ...after[column]];
  return result;
}

export class Curves {
  /**
   * `api` and `taskId` say what, `element` where. `texts(key, values)` translates.
   * `only` narrows to some metrics; `onPoint(lineId)` hears of clicks. `settings` may outlive the charts: the axis,
   * the smoothing, the scale, and where each chart is zoomed to.
   */
  constructor(element, { api, taskId, texts, theme, only = null, onPoint = () => {}, base, settings = chartSettings() }) {
    Object.assign(this, { element, api, taskId, texts, theme, only, onPoint, base, settings });
    this.series = new Map();
    this.charts = new Map();
    this.group = new EventTarget();
    this.lastId = 0;
    this.revision = null;
    this.reading = null;
    this.update = seldom(500, () => this.read().catch(() => {}));
    this.empty = h("p", { class: "faint" }, texts("noMetrics"));
    element.append(this.empty);
  }

  /** Reads what is new, or everything where the log was read anew or the axis is another. */
  read({ again = false } = {}) {
    this.reading = (this.reading ?? Promise.resolve()).catch(() => {}).then(() => this.readNow(again));
    return this.reading;
  }

  async readNow(again) {
    const options = { x: this.settings.x, names: this.only ?? undefined };
    let answer = await this.api.metrics(this.taskId, { ...options, after: again ? 0 : this.lastId });
    const isWhole = again || this.lastId === 0;
    if (!isWhole && (answer.revision !== this.revision || answer.series.some((each) => each.attempts))) {
      answer = await this.api.metrics(this.taskId, { ...options, after: 0 });
      this.series.clear();
    } else if (isWhole) {
      this.series.clear();
    }
    this.revision = answer.revision;
    this.lastId = answer.last_id;
    for (const each of answer.series) {
      const known = this.series.get(each.name);
      this.series.set(each.name, known ? joined(known, each) : each);
    }
    await this.draw();
  }

  axisTitle() {
    return this.texts({ epoch: "epochAxis", step: "step", time: "time" }[this.settings.x]);
  }

  async draw() {
    if (this.isDestroyed) return;
    const groups = new Map();
    for (const name of this.series.keys()) {
      if (!this.series.get(name).values.length || NO_CURVES.has(name)) continue;
      const group = groupOf(name);
      groups.set(group, [...(groups.get(group) ?? []), name]);
    }
    this.empty.hidden = groups.size > 0;
    for (const [group, { chart, figure }] of this.charts) {
      if (groups.has(group)) continue;
      chart.destroy();
      figure.remove();
      this.charts.delete(group);
    }
    await Promise.all([...groups].map(([group, names]) => this.drawGroup(group, names.sort())));
  }

  async drawGroup(group, names) {
    if (!this.charts.has(group)) {
      const place = h("div", { class: "chart" });
      const legend = h("span", { class: "legend" });
      const caption = h("figcaption", {}, h("strong", {}, group), legend);
      const figure = h("figure", { class: "card", "data-chart": group }, caption, place);
      this.element.append(figure);
      const chart = new Chart(place, {
        title: group,
        group: this.group,
        theme: this.theme,
        base: this.base,
        onPoint: (_, id) => this.onPoint(id),
        zoom: this.settings.zoom[group],
        onZoom: (zoom) => (this.settings.zoom[group] = zoom),
      });
      this.charts.set(group, { chart, figure, legend, place });
    }
    const { chart, legend, place } = this.charts.get(group);
    place.setAttribute("role", "application");
    place.setAttribute("aria-label", this.texts("chartLabel", { names: names.join(", ") }));
    const others = names.filter((name) => !isTraining(name));
    const shown = names.map((name) => ({
      ...this.series.get(name),
      key: name,
      colour: colour(isTraining(name) ? others.length : others.indexOf(name), this.theme),
      dash: others.length && isTraining(name) ? "dot" : "solid",
    }));
    legend.replaceChildren(
      ...shown.map((each) => {
        const swatch = h("i", { class: "swatch" });
        swatch.style.background = each.colour;
        return h("span", {}, swatch, each.name, each.unit === "percent" ? " (%)" : "");
      }),
    );
    await chart.show(shown, {
      smoothing: this.settings.smoothing,
      logScale: this.settings.logScale,
      axisTitle: this.axisTitle(),
    });
  }

  async set(settings) {
    const again = settings.x !== undefined && settings.x !== this.settings.x;
    Object.assign(this.settings, settings);
    if (again) for (const { chart } of this.charts.values()) chart.zoomTo(null);
    await (again ? this.read({ again }) : this.draw());
  }

  mark(lineId) {
    for (const { chart } of this.charts.values()) chart.markLine(lineId);
  }

  wholeRange() {
    for (const { chart } of this.charts.values()) chart.wholeRange();
  }

  async setTheme(theme) {
    this.theme = theme;
    for (const { chart } of this.charts.values()) chart.theme = theme;
    await this.draw();
  }

  destroy() {
    this.isDestroyed = true;
    for (const { chart } of this.charts.values()) chart.destroy();
  }
}
