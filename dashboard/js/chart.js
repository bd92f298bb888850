// One chart of several series, by Plotly. What the mouse is at is found here, by bisection: Plotly's own hover looks at
// every point of every series, which takes too long for fifty runs.

import { h, s, eachFrame } from "./dom.js";
import { number } from "./format.js";
import { loadPlotly } from "./plotly.js";

const COLOURS = {
  light: ["#1f5fbf", "#b3541e", "#217a3c", "#8a3ab9", "#b02a5b", "#00727a", "#7a6300", "#5a5f6b"],
  dark: ["#7db4ff", "#ffab73", "#7ddb97", "#d3a1f5", "#ff8fb6", "#63d6dc", "#e0c65a", "#b9bec9"],
};
const SHOWN = 12;

export const colour = (index, theme) => COLOURS[theme][index % COLOURS[theme].length];

/** A running mean that weighs the past by `weight` (0: none), without the pull of its start, as TensorBoard's. */
export function smooth(values, weight) {
  if (!weight) return values;
  let mean = 0;
  let count = 0;
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null;
    mean = mean * weight + (1 - weight) * value;
    count += 1;
    return mean / (1 - weight ** count);
  });
}

/** The index of the value in an ascending array that is nearest to `x`. */
export function nearest(ascending, x) {
  let [low, high] = [0, ascending.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - ascending[low - 1] <= ascending[low] - x ? low - 1 : low;
}

/** Points with a place on the axis, in the order of the axis: what bisection needs. */
function ordered(series) {
  const order = series.x.map((_, index) => index).filter((index) => series.x[index] !== null);
  order.sort((one, other) => series.x[one] - series.x[other] || one - other);
  const pick = (column) => order.map((index) => column[index]);
  return { ...series, x: pick(series.x), values: pick(series.values), ids: pick(series.ids) };
}

export class Chart {
  /**
   * Draws into `element`. `group` joins charts whose cross-hairs move together: an EventTarget.
   * `onPoint(series, lineId)` hears of clicks and of the Enter key. `zoom` is where the reader was, `{x, y}` of ranges
   * or nothing; `onZoom` hears of another one.
   */
  constructor(element, { title, group, onPoint = () => {}, theme = "light", base, zoom = null, onZoom = () => {} }) {
    Object.assign(this, { element, title, group, onPoint, theme, base, zoom, onZoom });
    this.series = [];
    this.settings = { smoothing: 0, logScale: false, axisTitle: "" };
    this.mark = null;
    this.plot = h("div", { class: "plot" });
    this.tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.overlay = s("svg", { class: "cross", "aria-hidden": "true" });
    this.said = h("div", { class: "said", role: "status" });
    element.tabIndex = 0;
    element.replaceChildren(this.plot, this.overlay, this.tip, this.said);
    this.pointer = null;
    this.drawCross = eachFrame(() => this.cross());
    this.life = new AbortController();
    const { signal } = this.life;
    this.plot.addEventListener("pointermove", (event) => this.move(event), { signal });
    this.plot.addEventListener("pointerleave", () => this.leave(), { signal });
    this.plot.addEventListener("pointerdown", (event) => (this.down = [event.clientX, event.clientY]), { signal });
    document.addEventListener("pointerup", (event) => this.click(event), { signal }); // Plotly covers the page meanwhile
    element.addEventListener("keydown", (event) => this.key(event), { signal });
    element.addEventListener("blur", () => this.cursor && this.leave(), { signal });
    group?.addEventListener("cross", (event) => this.follow(event.detail), { signal });
    this.resizer = new ResizeObserver(() => this.drawn && this.plot.isConnected && this.plotly.Plots.resize(this.plot));
    this.resizer.observe(element);
  }

  /** `series`: [{key, name, colour, dash, x, values, ids}]. */
  async show(series, settings = {}) {
    this.series = series.map(ordered);
    const isOther = this.drawn && settings.logScale !== undefined && settings.logScale !== this.settings.logScale;
    if (isOther && this.zoom) this.zoomTo({ ...this.zoom, y: null });
    Object.assign(this.settings, settings);
    await this.draw();
  }

  async draw() {
    this.plotly ??= await loadPlotly(this.base ?? import.meta.url);
    if (this.life.signal.aborted) return;
    const dark = this.theme === "dark";
    const [ink, faint] = dark ? ["#c9d1de", "#2b3442"] : ["#3b4454", "#e4e8ee"];
    const weight = this.settings.smoothing;
    const traces = [];
    this.series.forEach((each, index) => {
      const line = { color: each.colour ?? colour(index, this.theme), width: 1.8, dash: each.dash ?? "solid" };
      const common = { type: "scatter", name: each.name, hoverinfo: "skip", x: each.x };
      const mode = each.x.length < 60 ? "lines+markers" : "lines";
      if (weight) traces.push({ ...common, mode: "lines", y: each.values, line: { ...line, width: 1 }, opacity: 0.28 });
      traces.push({ ...common, mode, y: smooth(each.values, weight), line, marker: { size: 5, color: line.color } });
    });
    const axis = { gridcolor: faint, linecolor: faint, zeroline: false, tickfont: { size: 11 }, automargin: true };
    const layout = {
      margin: { l: 46, r: 10, t: 6, b: 34 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: "inherit" },
      showlegend: false,
      hovermode: false,
      dragmode: "zoom",
      xaxis: { ...axis, title: { text: this.settings.axisTitle, font: { size: 11 }, standoff: 6 } },
      yaxis: { ...axis, type: this.settings.logScale ? "log" : "linear" },
    };
    Object.assign(layout.xaxis, this.zoom?.x ? { range: this.zoom.x } : { autorange: true });
    Object.assign(layout.yaxis, this.zoom?.y ? { range: this.zoom.y } : { autorange: true });
    await this.plotly.react(this.plot, traces, layout, { displayModeBar: false, responsive: false, doubleClick: "autosize" });
    if (!this.drawn) this.plot.on("plotly_relayout", () => this.zoomed());
    this.drawn = true;
    this.drawCross();
  }

  /** Where the plot's area lies, and how pixels become values and back. */
  axes() {
    const { xaxis, yaxis } = this.plot._fullLayout;
    return { xaxis, yaxis };
  }

  zoomed() {
    const range = (axis) => (axis.autorange ? null : [...axis.range]);
    const { xaxis, yaxis } = this.axes();
    const [x, y] = [range(xaxis), range(yaxis)];
    this.zoomTo(x || y ? { x, y } : null);
    this.drawCross();
  }

  /** Remembers where the reader is; the next drawing shows it. */
  zoomTo(zoom) {
    this.zoom = zoom;
    this.onZoom(zoom);
  }

  /** Arrow keys, Home and End go from point to point and from series to series; Enter is a click, Escape leaves. */
  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.drawn) return;
    if (event.key === "Escape" && this.cursor) {
      this.leave();
      return;
    }
    const shown = this.series.filter((each) => each.x.length);
    if (!shown.length) return;
    const last = shown.length - 1;
    let { series, at } = this.cursor ?? { series: shown[0], at: null };
    const place = Math.max(0, shown.findIndex((each) => each.key === series.key));
    series = shown[place];
    const end = series.x.length - 1;
    if (event.key === "Enter") {
      if (this.cursor) this.onPoint(series, series.ids[Math.min(at, end)]);
      return;
    }
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const x = series.x[Math.min(at ?? end, end)];
      series = shown[event.key === "ArrowUp" ? Math.max(0, place - 1) : Math.min(last, place + 1)];
      at = nearest(series.x, x);
    } else if (event.key === "ArrowLeft") at = Math.max(0, (at ?? end + 1) - 1);
    else if (event.key === "ArrowRight") at = Math.min(end, (at ?? end - 1) + 1);
    else if (event.key === "Home") at = 0;
    else if (event.key === "End") at = end;
    else return;
    event.preventDefault();
    this.goTo(series, at);
  }

  goTo(series, at) {
    const { yaxis } = this.axes();
    const [x, value] = [series.x[at], series.values[at]];
    const pixelY = value === null || (this.settings.logScale && value <= 0) ? 0 : yaxis.d2p(value);
    this.cursor = { series, at };
    this.pointer = { x, pixelY, own: true };
    this.said.textContent = `${series.name}: ${number(value)}, ${this.settings.axisTitle} ${number(x)}`;
    this.drawCross();
    this.group?.dispatchEvent(new CustomEvent("cross", { detail: { x, from: this } }));
  }

  move(event) {
    if (!this.drawn || event.buttons) return;
    const box = this.plot.getBoundingClientRect();
    const { xaxis, yaxis } = this.axes();
    const [x, y] = [event.clientX - box.left - xaxis._offset, event.clientY - box.top - yaxis._offset];
    if (x < 0 || x > xaxis._length || y < 0 || y > yaxis._length) {
      this.leave();
      return;
    }
    this.cursor = null;
    this.pointer = { x: xaxis.p2d(x), pixelY: y, own: true };
    this.drawCross();
    this.group?.dispatchEvent(new CustomEvent("cross", { detail: { x: this.pointer.x, from: this } }));
  }

  leave() {
    this.pointer = this.cursor = null;
    this.drawCross();
    this.group?.dispatchEvent(new CustomEvent("cross", { detail: { x: null, from: this } }));
  }

  follow({ x, from }) {
    if (from === this || !this.drawn) return;
    this.cursor = null;
    this.pointer = x === null ? null : { x, own: false };
    this.drawCross();
  }

  /** The points nearest to the pointer's x, one of each series; those whose height is nearest first. */
  points() {
    const { xaxis, yaxis } = this.axes();
    const found = [];
    this.series.forEach((each, index) => {
      if (!each.x.length) return;
      const at = nearest(each.x, this.pointer.x);
      const value = each.values[at];
      const pixelX = xaxis.d2p(each.x[at]);
      if (Math.abs(pixelX - xaxis.d2p(this.pointer.x)) > 40) return;
      const pixelY = value === null || (this.settings.logScale && value <= 0) ? null : yaxis.d2p(value);
      found.push({ each, index, at, value, pixelX, pixelY });
    });
    if (this.pointer.own) {
      const away = (point) => (point.pixelY === null ? Infinity : Math.abs(point.pixelY - this.pointer.pixelY));
      found.sort((one, other) => away(one) - away(other));
    }
    return found;
  }

  cross() {
    if (!this.drawn || this.life.signal.aborted) return;
    const { xaxis, yaxis } = this.axes();
    this.overlay.replaceChildren();
    if (this.mark) this.drawMark(xaxis, yaxis);
    if (!this.pointer || !this.series.length) {
      this.tip.hidden = true;
      return;
    }
    const points = this.points();
    const x = xaxis._offset + (points[0]?.pixelX ?? xaxis.d2p(this.pointer.x));
    const [top, bottom] = [yaxis._offset, yaxis._offset + yaxis._length];
    this.overlay.append(s("line", { x1: x, x2: x, y1: top, y2: bottom, class: "hair" }));
    for (const point of points.slice(0, SHOWN)) {
      if (point.pixelY === null) continue;
      const fill = point.each.colour ?? colour(point.index, this.theme);
      const [cx, cy] = [xaxis._offset + point.pixelX, yaxis._offset + point.pixelY];
      this.overlay.append(s("circle", { cx, cy, r: 4, fill, class: "dot" }));
    }
    if (!this.pointer.own) {
      this.tip.hidden = true;
      return;
    }
    const rows = points.slice(0, SHOWN).map((point) => {
      const swatch = h("i", { class: "swatch" });
      swatch.style.background = point.each.colour ?? colour(point.index, this.theme);
      return h("div", {}, swatch, h("span", {}, point.each.name), h("b", {}, number(point.value)));
    });
    const more = points.length > SHOWN ? h("div", { class: "faint" }, `+${points.length - SHOWN}`) : null;
    this.tip.replaceChildren(h("div", { class: "faint" }, `${this.settings.axisTitle} ${number(this.pointer.x)}`), ...rows);
    if (more) this.tip.append(more);
    this.tip.hidden = false;
    const left = x > this.plot.clientWidth / 2;
    this.tip.style.left = left ? "" : `${x + 12}px`;
    this.tip.style.right = left ? `${this.plot.clientWidth - x + 12}px` : "";
    this.tip.style.top = `${top + 4}px`;
  }

  drawMark(xaxis, yaxis) {
    for (const each of this.series) {
      const at = each.ids.indexOf(this.mark);
      if (at < 0 || each.values[at] === null) continue;
      const [cx, cy] = [xaxis._offset + xaxis.d2p(each.x[at]), yaxis._offset + yaxis.d2p(each.values[at])];
      this.overlay.append(s("circle", { cx, cy, r: 8, class: "mark" }));
    }
  }

  /** Marks the points of a log line. */
  markLine(id) {
    this.mark = id;
    this.drawCross();
  }

  click(event) {
    const { down } = this;
    this.down = null;
    if (!down || Math.hypot(event.clientX - down[0], event.clientY - down[1]) > 4) return;
    this.move({ clientX: event.clientX, clientY: event.clientY, buttons: 0 });
    if (!this.pointer) return;
    const [point] = this.points();
    if (point) this.onPoint(point.each, point.each.ids[point.at]);
  }

  wholeRange() {
    if (this.drawn) this.plotly.relayout(this.plot, { "xaxis.autorange": true, "yaxis.autorange": true });
  }

  destroy() {
    this.life.abort();
    this.resizer.disconnect();
    if (this.plotly && this.drawn) this.plotly.purge(this.plot);
  }
}
