// The page's language: the reader's choice, else the browser's.

import { texts } from "./texts.js";

const KEY = "training-language";

let chosen = localStorage.getItem(KEY) ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export const language = () => chosen;

export function setLanguage(next) {
  chosen = next;
  localStorage.setItem(KEY, next);
  document.documentElement.lang = next === "zh" ? "zh-CN" : "en";
}

/** The text of a key; `{name}` in it is replaced by `values.name`. */
export function t(key, values = {}) {
  const text = texts[chosen][key] ?? texts.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
