// A task's log: its last lines and what comes, narrowed by level and text. A line marks its point, and the other way round.

import { h } from "../dom.js";
import { time } from "../format.js";
import { t } from "../i18n.js";
import { choice, field } from "./parts.js";

const LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR"];
const PAGE = 1000;
const MOST = 5000;

export class LogPane {
  constructor({ api, taskId, onLine }) {
    Object.assign(this, { api, taskId, onLine });
    this.lines = [];
    this.level = "";
    this.text = "";
    this.isFollowing = true;
    this.list = h("ol", { class: "log", tabindex: "0", "aria-label": t("log") });
    this.list.addEventListener("scroll", () => {
      const atEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 24;
      this.setFollowing(atEnd);
    });
    this.count = h("span", { class: "faint" });
    this.follow = h("input", { type: "checkbox", checked: true, onchange: (event) => this.setFollowing(event.target.checked) });
    this.earlier = h("button", { onclick: () => this.readEarlier() }, t("earlier"));
    const levels = [["", t("allLevels")], ...LEVELS.map((each) => [each, each])];
    const filter = h("input", { type: "search", oninput: (event) => this.narrow("text", event.target.value.toLowerCase()) });
    this.node = h(
      "section",
      { class: "card", id: "log" },
      h("h2", {}, t("log")),
      h(
        "div",
        { class: "tools" },
        field(t("level"), choice(levels, "", (value) => this.narrow("level", value))),
        field(t("textFilter"), filter),
        h("label", { class: "check" }, this.follow, t("follow")),
        this.earlier,
        this.count,
      ),
      this.list,
    );
  }

  /** The last lines of a task that has so many. */
  async read(lastId) {
    await this.readFrom(Math.max(0, lastId - PAGE));
  }

  async readFrom(after) {
    let page = await this.api.lines(this.taskId, after);
    const read = page.entries;
    while (page.next_after) {
      page = await this.api.lines(this.taskId, page.next_after);
      read.push(...page.entries);
    }
    const last = read.at(-1)?.id ?? after;
    this.lines = [...read, ...this.lines.filter((entry) => entry.id > last)]; // what has come live meanwhile
    this.trim();
    this.draw();
  }

  async readEarlier() {
    const first = this.lines[0]?.id ?? 1;
    if (first <= 1) return;
    const after = Math.max(0, first - 1 - PAGE);
    const page = await this.api.lines(this.taskId, after, first - 1 - after);
    this.lines.unshift(...page.entries);
    this.setFollowing(false);
    this.draw();
  }

  trim() {
    if (this.isFollowing && this.lines.length > MOST) this.lines.splice(0, this.lines.length - MOST);
  }

  /** A line that has just come. */
  add(entry) {
    const last = this.lines.at(-1)?.id ?? 0;
    if (entry.id <= last) return;
    this.lines.push(entry);
    if (this.matches(entry)) this.list.append(this.row(entry));
    if (this.isFollowing) {
      while (this.lines.length > MOST) this.lines.shift();
      while (this.list.children.length > MOST) this.list.firstChild.remove();
      this.list.scrollTop = this.list.scrollHeight;
    }
    this.tell();
  }

  matches(entry) {
    return (!this.level || entry.level === this.level) && (!this.text || entry.message.toLowerCase().includes(this.text));
  }

  narrow(name, value) {
    this[name] = value;
    this.draw();
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
    this.list.replaceChildren(...this.lines.filter((entry) => this.matches(entry)).map((entry) => this.row(entry)));
    if (this.isFollowing) this.list.scrollTop = this.list.scrollHeight;
    this.tell();
  }

  tell() {
    this.count.textContent = t("lines", { count: this.list.children.length });
    this.earlier.disabled = (this.lines[0]?.id ?? 1) <= 1;
  }

  setFollowing(isFollowing) {
    this.isFollowing = isFollowing;
    this.follow.checked = isFollowing;
    if (isFollowing) this.list.scrollTop = this.list.scrollHeight;
  }

  select(id) {
    for (const each of this.list.querySelectorAll(".selected")) each.classList.remove("selected");
    this.list.querySelector(`[data-line="${id}"]`)?.classList.add("selected");
    this.onLine(id);
  }

  /** Shows a line, reading it first where it is not among those that are there. */
  async open(id) {
    this.setFollowing(false);
    if (!this.lines.some((entry) => entry.id === id)) await this.readFrom(Math.max(0, id - PAGE / 2));
    this.level = this.text = "";
    for (const control of this.node.querySelectorAll("select, input[type=search]")) control.value = "";
    this.draw();
    this.select(id);
    const row = this.list.querySelector(`[data-line="${id}"]`);
    if (!row) return;
    this.list.scrollTop = row.offsetTop - this.list.offsetTop - this.list.clientHeight / 2;
    this.node.scrollIntoView({ block: "nearest" });
    row.querySelector("button").focus({ preventScroll: true });
  }
}
