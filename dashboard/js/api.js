// The service's public API. Where it wants a token, `signIn` gets a cookie for one.

const TRAINING = "/api/v2/training";

export class ServiceError extends Error {
  constructor(status, body) {
    super(body?.detail ?? `HTTP ${status}`);
    this.status = status;
    this.code = body?.code ?? "unknown";
    this.fields = body?.errors ?? [];
  }
}

export class Api {
  /** `base` is the address of a service, `""` for the one that this page came from. */
  constructor(base = "") {
    this.base = base.replace(/\/+$/, "");
    this.onSignInNeeded = null;
  }

  async ask(method, path, body) {
    const options = { method, credentials: this.base ? "include" : "same-origin", headers: {} };
    if (body !== undefined) {
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    const answer = await fetch(this.base + path, options);
    const content = await answer.json().catch(() => null);
    if (answer.ok) return content;
    if (answer.status === 401 && this.onSignInNeeded) this.onSignInNeeded();
    throw new ServiceError(answer.status, content);
  }

  url(path) {
    return this.base + path;
  }

  task(id, rest = "") {
    return `${TRAINING}/${encodeURIComponent(id)}${rest}`;
  }

  async allTasks() {
    const first = await this.ask("GET", `${TRAINING}?limit=200`);
    const tasks = [...first.tasks];
    let cursor = first.next_cursor;
    while (cursor && tasks.length < 5000) {
      const page = await this.ask("GET", `${TRAINING}?limit=200&cursor=${cursor}`);
      tasks.push(...page.tasks);
      cursor = page.next_cursor;
    }
    return { tasks, eventId: first.event_id };
  }

  status(id) {
    return this.ask("GET", this.task(id, "?history=true"));
  }

  metrics(id, { x = "epoch", after = 0, names } = {}) {
    const query = new URLSearchParams({ x, after });
    if (names?.length) query.set("names", names.join(","));
    return this.ask("GET", this.task(id, `/metrics?${query}`));
  }

  compare(ids, x) {
    return this.ask("GET", `${TRAINING}/compare?${new URLSearchParams({ ids: ids.join(","), x })}`);
  }

  /** A page of stored lines; what is empty is not asked for. */
  lines(id, query) {
    const given = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined);
    return this.ask("GET", this.task(id, `/logs/history?${new URLSearchParams(given)}`));
  }

  signIn(token) {
    return fetch(`${this.base}/api/v1/session`, { method: "POST", credentials: "include", headers: { Authorization: `Bearer ${token}` } }).then(
      async (answer) => {
        if (!answer.ok) throw new ServiceError(answer.status, await answer.json().catch(() => null));
      },
    );
  }

  /** An EventSource of all events behind a cursor. */
  events(after, ids = []) {
    const query = new URLSearchParams();
    if (after) query.set("after", after);
    if (ids.length) query.set("ids", ids.join(","));
    return new EventSource(`${this.base}${TRAINING}/events?${query}`, { withCredentials: Boolean(this.base) });
  }
}

export { TRAINING };
