// Nodes from data. Text is always text: nothing here parses HTML.

/** `h("a", {href, class, onclick, "aria-label"}, ...children)`; children are nodes, text, or nothing. */
export function h(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (["value", "checked", "disabled", "selected", "textContent", "hidden", "open"].includes(key)) node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

/** The same in SVG. */
export function s(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Calls `update` at most once a frame, however often the returned function is called. */
export function eachFrame(update) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      update();
    });
  };
}

/** Calls `update` once nobody has called the returned function for so many milliseconds, with what the last one gave. */
export function later(milliseconds, update) {
  let timer = null;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => update(...values), milliseconds);
  };
}

/** Calls `update` at most once in so many milliseconds, and once more for what came meanwhile. */
export function seldom(milliseconds, update) {
  let timer = null;
  let again = false;
  const run = () => {
    timer = setTimeout(() => {
      timer = null;
      if (again) {
        again = false;
        run();
      }
    }, milliseconds);
    update();
  };
  return () => {
    if (timer === null) run();
    else again = true;
  };
}
