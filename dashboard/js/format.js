// Numbers and times as people read them, in their language.

import { language } from "./i18n.js";

const locale = () => (language() === "zh" ? "zh-CN" : "en-GB");

export function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return new Intl.NumberFormat(locale(), { maximumSignificantDigits: 5 }).format(value);
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (part) => String(part).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

export function time(text) {
  const moment = new Date(text);
  return Number.isNaN(moment.valueOf())
    ? text
    : new Intl.DateTimeFormat(locale(), { dateStyle: "short", timeStyle: "medium" }).format(moment);
}

export function bytes(size) {
  if (size === undefined || size === null) return "";
  const units = ["B", "KiB", "MiB", "GiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(size, 1)) / 10));
  return `${number(size / 1024 ** power)} ${units[power]}`;
}

/** Seconds until a running task is done, by what it has done so far; nothing where that cannot be said. */
export function secondsLeft(task, now = Date.now()) {
  if (task.status !== "running" || !task.progress) return undefined;
  const began = task.history?.find((each) => each.status === "running")?.at ?? task.created_at;
  const elapsed = (now - new Date(began)) / 1000;
  return (elapsed * (100 - task.progress)) / task.progress;
}

/** The metric by which people judge a task, and its value. */
export function bestMetric(task) {
  const metrics = task.latest_metrics ?? {};
  for (const name of ["best_acc", "val_acc", "top1_acc", "macro_f1", "mAP", "train_acc", "val_loss", "train_loss", "loss"]) {
    if (metrics[name] !== undefined && metrics[name] !== null) return [name, metrics[name]];
  }
  const other = Object.entries(metrics).find(([name, value]) => typeof value === "number" && !/epoch|step/.test(name));
  return other ?? [null, null];
}
