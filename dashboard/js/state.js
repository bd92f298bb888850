// What the page knows of the service. Views read it and subscribe; nobody else keeps a copy.

import { seldom } from "./dom.js";
import { Follower } from "./events.js";

const FINAL = ["completed", "failed", "cancelled"];

export const isFinal = (task) => FINAL.includes(task.status);

export class State extends EventTarget {
  constructor(api) {
    super();
    this.api = api;
    this.tasks = new Map();
    this.connection = "lost";
    this.follower = null;
    this.changed = new Set();
    this.refresh = seldom(700, () => this.readChanged());
  }

  /** Reads the list, then follows from there. Called again after a sign-in. */
  async start() {
    const { tasks, eventId } = await this.api.allTasks();
    this.tasks = new Map(tasks.map((task) => [task.task_id, task]));
    this.tell("tasks");
    this.follower?.close();
    this.follower = new Follower(this.api, {
      after: eventId,
      onEvent: (type, data) => this.take(type, data),
      onState: (connection) => {
        if (connection === this.connection) return;
        this.connection = connection;
        this.tell("connection");
      },
      onRefused: () => this.api.ask("GET", "/api/v2/resources").catch(() => {}), // asks for the token where that is why
    });
  }

  take(type, data) {
    if (!data.task_id) this.start().catch(() => {}); // an event will come again
    else if (data.deleted) {
      this.tasks.delete(data.task_id);
      this.tell("tasks");
    } else if (type !== "log" || !this.tasks.has(data.task_id)) {
      this.changed.add(data.task_id);
      this.refresh();
    }
    this.dispatchEvent(new CustomEvent("event", { detail: { type, data } }));
  }

  /** Of tasks that events speak of, what the service says now: the page computes no status of its own. */
  async readChanged() {
    const ids = [...this.changed];
    this.changed.clear();
    await Promise.all(
      ids.map(async (id) => {
        try {
          const task = await this.api.status(id);
          this.tasks.set(id, task);
          this.tell("task", task);
        } catch (error) {
          if (error.status === 404) {
            this.tasks.delete(id);
          } else {
            this.changed.add(id); // the service is away: once more, when it may be back
            setTimeout(this.refresh, 3000);
          }
        }
      }),
    );
    this.tell("tasks");
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** Subscribes until `signal` is aborted, as a view does with that of its own life. */
  on(name, listener, signal) {
    this.addEventListener(name, (event) => listener(event.detail), { signal });
  }
}
