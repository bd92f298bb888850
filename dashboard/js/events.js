// The page's one connection: everything that happens, from a cursor on, over lost connections.

export const TYPES = ["log", "metric", "status", "alert", "reset"];

/**
 * Follows events from `after` on and calls `onEvent(type, data)` for each, once.
 *
 * A browser takes up a lost connection by itself; one that an answer other than 200 has closed it does not: here that
 * is done after a while, behind the last event. `onState` hears `open`, `lost` and `closed`.
 */
export class Follower {
  constructor(api, { after, ids = [], onEvent, onState = () => {}, onRefused = () => {} }) {
    Object.assign(this, { api, ids, onEvent, onState, onRefused, last: after, source: null, timer: null, delay: 1000 });
    this.open();
  }

  open() {
    const source = this.api.events(this.last, this.ids);
    this.source = source;
    source.onopen = () => {
      this.delay = 1000;
      this.onState("open");
    };
    source.onerror = () => {
      this.onState("lost");
      if (source.readyState !== EventSource.CLOSED) return;
      this.onRefused();
      this.timer = setTimeout(() => this.open(), this.delay);
      this.delay = Math.min(this.delay * 2, 30000);
    };
    for (const type of TYPES) {
      source.addEventListener(type, (event) => {
        this.last = event.lastEventId;
        this.onEvent(type, JSON.parse(event.data));
      });
    }
  }

  close() {
    clearTimeout(this.timer);
    this.source.close();
    this.onState("closed");
  }
}
