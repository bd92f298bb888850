// A task's log. The service finds and pages the lines; a window of them is on the page, and moves with the reader.
// A line marks its point, and the other way round.

import { h, later } from "../dom.js";
import { time } from "../format.js";
import { t } from "../i18n.js";
import { choice, field } from "./parts.js";

const LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
const PAGE = 500;
const MOST = 2000;
const END = Number.MAX_SAFE_INTEGER;
const NEAR = 400; // pixels from an end of the window at which more is read

export class LogPane {
  /** `kept` outlives the pane: the level and the text that it is narrowed to. */
  constructor({ api, taskId, onLine, kept }) {
    Object.assign(this, { api, taskId, onLine, kept });
    this.lines = [];
    this.isFollowing = true;
    this.isAtStart = this.isAtEnd = false; // whether the window has the first, and the last line
    this.newest = 0; // the last line that has come live
    this.turn = 0; // of what is read: an answer to an earlier question is dropped
    this.isReading = false;
    this.list = h("ol", { class: "log", tabindex: "0", "aria-label": t("log") });
    this.list.addEventListener("scroll", () => this.scrolled());
    this.count = h("span", { class: "faint" });
    this.follow = h("input", { type: "checkbox", checked: true, onchange: (event) => this.setFollowing(event.target.checked) });
    this.earlier = h("button", { onclick: () => this.readEarlier({ jump: true }).catch(() => {}) }, t("earlier"));
    const levels = [["", t("allLevels")], ...LEVELS.map((each) => [each, each])];
    const search = later(250, (text) => this.narrow("text", text));
    const filter = h("input", { type: "search", maxlength: 200, value: kept.text, oninput: (event) => search(event.target.value) });
    this.node = h(
      "section",
      { class: "card", id: "log" },
      h("h2", {}, t("log")),
      h(
        "div",
        { class: "tools" },
        field(t("level"), choice(levels, kept.level, (value) => this.narrow("level", value))),
        field(t("textFilter"), filter),
        h("label", { class: "check" }, this.follow, t("follow")),
        this.earlier,
        this.count,
      ),
      this.list,
    );
  }

  /** A page of lines, as the pane is narrowed; nothing if another question was asked meanwhile. */
  async ask(place) {
    const turn = ++this.turn;
    this.isReading = true;
    try {
      const { level, text } = this.kept;
      const page = await this.api.lines(this.taskId, { limit: PAGE, level, contains: text, ...place });
      return turn === this.turn ? page : null;
    } finally {
      if (turn === this.turn) this.isReading = false;
    }
  }

  /** The last lines. */
  async read() {
    const known = this.newest;
    const page = await this.ask({ before: END });
    if (!page) return;
    this.lines = page.entries;
    this.isAtStart = page.next_before === undefined;
    this.isAtEnd = true;
    this.draw();
    if (this.newest > known) await this.readLater();
  }

  /** `jump`: to where the earlier lines end; else the reader stays at the line that is looked at. */
  async readEarlier({ jump = false } = {}) {
    if (this.isAtStart || this.isReading || !this.lines.length) return;
    const page = await this.ask({ before: this.lines[0].id });
    if (!page) return;
    this.isAtStart = page.next_before === undefined;
    const height = this.list.scrollHeight;
    this.lines.unshift(...page.entries);
    this.list.prepend(...page.entries.map((entry) => this.row(entry)));
    const added = this.list.scrollHeight - height;
    this.list.scrollTop = jump ? added - this.list.clientHeight / 2 : this.list.scrollTop + added;
    this.drop(this.lines.length - MOST, { fromEnd: true });
    this.setFollowing(false);
    this.tell();
  }

  async readLater() {
    const known = this.newest;
    const page = await this.ask({ after: this.lines.at(-1)?.id ?? 0 });
    if (!page) return;
    this.isAtEnd = page.next_after === undefined;
    this.append(page.entries);
    if (this.isAtEnd && this.newest > known) await this.readLater();
  }

  append(entries) {
    this.lines.push(...entries);
    this.list.append(...entries.map((entry) => this.row(entry)));
    this.drop(this.lines.length - MOST, { fromEnd: false });
    if (this.isFollowing && this.isAtEnd) this.list.scrollTop = this.list.scrollHeight;
    this.tell();
  }

  /** Takes lines out of the window; what the reader sees stays where it is. */
  drop(count, { fromEnd }) {
    if (count <= 0) return;
    if (fromEnd) {
      this.lines.splice(-count);
      for (let index = 0; index < count; index += 1) this.list.lastChild.remove();
      this.isAtEnd = false;
    } else {
      const height = this.list.scrollHeight;
      this.lines.splice(0, count);
      for (let index = 0; index < count; index += 1) this.list.firstChild.remove();
      this.list.scrollTop -= height - this.list.scrollHeight;
      this.isAtStart = false;
    }
  }

  /** A line that has just come. */
  add(entry) {
    if (entry.id <= this.newest) return;
    this.newest = entry.id;
    if (!this.isAtEnd || this.isReading || entry.id <= (this.lines.at(-1)?.id ?? 0)) return;
    if (this.matches(entry)) this.append([entry]);
  }

  matches(entry) {
    const { level, text } = this.kept;
    return (!level || entry.level === level) && (!text || entry.message.toLowerCase().includes(text.toLowerCase()));
  }

  narrow(name, value) {
    this.kept[name] = value;
    this.isFollowing = this.follow.checked = true;
    this.read().catch(() => {});
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.list;
    const below = scrollHeight - scrollTop - clientHeight;
    this.isFollowing = this.follow.checked = this.isAtEnd && below < 24;
    if (scrollTop < NEAR && scrollHeight > clientHeight) this.readEarlier().catch(() => {});
    else if (below < NEAR && !this.isAtEnd && !this.isReading) this.readLater().catch(() => {});
  }

  row(entry) {
    const mark = () => this.select(entry.id);
    return h(
      "li",
      { class: `${entry.level.toLowerCase()}${entry.metrics ? " has-metrics" : ""}`, "data-line": entry.id },
      h("button", { class: "id", onclick: mark, "aria-label": t("line", { id: entry.id }) }, String(entry.id)),
      h("time", { title: entry.timestamp }, time(entry.timestamp).split(" ").at(-1)),
      h("span", { class: "level" }, entry.level),
      h("span", { class: "message" }, entry.message),
    );
  }

  draw() {
    this.list.replaceChildren(...this.lines.map((entry) => this.row(entry)));
    if (this.isFollowing) this.list.scrollTop = this.list.scrollHeight;
    this.tell();
  }

  tell() {
    this.count.textContent = t("lines", { count: this.lines.length });
    this.earlier.disabled = this.isAtStart;
  }

  setFollowing(isFollowing) {
    this.isFollowing = this.follow.checked = isFollowing;
    if (!isFollowing) return;
    if (this.isAtEnd) this.list.scrollTop = this.list.scrollHeight;
    else this.read().catch(() => {});
  }

  select(id) {
    for (const each of this.list.querySelectorAll(".selected")) each.classList.remove("selected");
    this.list.querySelector(`[data-line="${id}"]`)?.classList.add("selected");
    this.onLine(id);
  }

  /** Shows a line, reading what is around it where it is not among those that are there. */
  async open(id) {
    this.setFollowing(false);
    if (!this.lines.some((entry) => entry.id === id)) {
      this.kept.level = this.kept.text = "";
      for (const control of this.node.querySelectorAll("select, input[type=search]")) control.value = "";
      const after = Math.max(0, id - PAGE / 2);
      const page = await this.ask({ after });
      if (!page) return;
      this.lines = page.entries;
      this.isAtStart = after === 0;
      this.isAtEnd = page.next_after === undefined;
      this.draw();
    }
    this.select(id);
    const row = this.list.querySelector(`[data-line="${id}"]`);
    if (!row) return;
    this.list.scrollTop = row.offsetTop - this.list.offsetTop - this.list.clientHeight / 2;
    this.node.scrollIntoView({ block: "nearest" });
    row.querySelector("button").focus({ preventScroll: true });
  }
}
