// The page: its frame, and which view is in it. Each view is a function `(place, context, parameters)`; it lives until
// `context.signal` is aborted. What a reader has typed or chosen is kept by the view's module, so that it is there again
// in the other language.

import { Api } from "./api.js";
import { h } from "./dom.js";
import { language, setLanguage, t } from "./i18n.js";
import { State } from "./state.js";
import { alertsView } from "./views/alerts.js";
import { signInForm } from "./views/sign-in.js";
import { compareView } from "./views/compare.js";
import { devicesView } from "./views/devices.js";
import { startView } from "./views/start.js";
import { taskView } from "./views/task.js";
import { tasksView } from "./views/tasks.js";

const THEME = "training-theme";
const VIEWS = { "": tasksView, task: taskView, compare: compareView, start: startView, devices: devicesView, alerts: alertsView };
const LINKS = [["", "tasks"], ["compare", "compare"], ["start", "start"], ["alerts", "alerts"], ["devices", "devices"]];

const api = new Api();
const state = new State(api);
const place = document.getElementById("main");
const notes = document.getElementById("notes");
const look = new EventTarget();
let life = new AbortController();
let isSigningIn = false;

const theme = () =>
  localStorage.getItem(THEME) ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

function note(text, kind = "info") {
  const shown = h("div", { class: `note ${kind}` }, text);
  notes.append(shown);
  setTimeout(() => shown.remove(), kind === "bad" ? 9000 : 4000);
}

function frame() {
  const [view] = route();
  const links = LINKS.map(([path, key]) =>
    h("a", { href: `#/${path}`, "aria-current": view === path ? "page" : undefined }, t(key)),
  );
  const online = state.connection === "open";
  document.getElementById("top").replaceChildren(
    h("a", { class: "brand", href: "#/" }, t("title")),
    h("nav", { "aria-label": t("title") }, ...links),
    h("span", { id: "connection", class: online ? "online" : "offline", role: "status" }, t(online ? "live" : "lost")),
    h("button", { title: t("languageHint"), onclick: switchLanguage, lang: language() === "zh" ? "en" : "zh-CN" }, t("language")),
    h("button", { title: t("themeHint"), onclick: switchTheme, "aria-pressed": String(theme() === "dark") }, t("theme")),
  );
  document.getElementById("skip").textContent = t("skip");
  document.title = t("title");
}

function switchLanguage() {
  setLanguage(language() === "zh" ? "en" : "zh");
  show();
}

function switchTheme() {
  localStorage.setItem(THEME, theme() === "dark" ? "light" : "dark");
  showTheme();
}

/** Styles change by themselves; what is drawn hears of it. */
function showTheme() {
  document.documentElement.dataset.theme = theme();
  frame();
  look.dispatchEvent(new Event("theme"));
}

/** The view's name and the rest of the address: `#/task/ID`, `#/compare?ids=a,b`. */
function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view = "", ...rest] = path.split("/");
  let id = rest.join("/");
  try {
    id = decodeURIComponent(id);
  } catch {
    // somebody has typed it
  }
  return [view, { id, query: new URLSearchParams(query) }];
}

function show() {
  life.abort();
  life = new AbortController();
  frame();
  const [view, parameters] = route();
  place.replaceChildren();
  if (isSigningIn) {
    place.append(signIn());
    return;
  }
  const { signal } = life;
  const onTheme = (draw) => look.addEventListener("theme", () => draw(theme()), { signal });
  const context = { api, state, note, theme: theme(), onTheme, signal, go: (hash) => (location.hash = hash) };
  (VIEWS[view] ?? tasksView)(place, context, parameters);
}

api.onSignInNeeded = () => {
  if (isSigningIn) return;
  isSigningIn = true;
  show();
};

function signIn() {
  return signInForm(api, async () => {
    isSigningIn = false;
    await begin();
  });
}

async function begin() {
  try {
    await state.start();
    show();
  } catch (error) {
    if (error.status === 401) return;
    note(t("failedRequest", { why: error.message }), "bad");
    setTimeout(begin, 3000);
  }
}

setLanguage(language());
document.documentElement.dataset.theme = theme();
state.addEventListener("connection", frame);
state.on("event", ({ type, data }) => {
  if (type === "alert") note(t("alertFired", { rule: data.rule_name, message: data.message }), "bad");
});
addEventListener("hashchange", () => {
  if (isSigningIn) return;
  show();
  place.focus({ preventScroll: true });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
frame();
begin();
