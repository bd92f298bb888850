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

/** By these people judge a task, the surest first: what the log calls the best, then the latest value of others. */
const SCORES = ["best_acc", "val_acc", "top1_acc", "acc", "macro_f1", "mAP", "train_acc"];
const LOSSES = ["val_loss", "train_loss", "loss"];

/**
 * The metric that tells most about a task: its name, and its value as text; accuracies are percent whatever the log
 * prints. An accuracy or another score has its `percent` too, by which tasks can be ranked: a loss or a gigabyte
 * cannot be ranked among them. Nothing where the task has no metrics.
 */
export function headline(task) {
  const metrics = task.latest_metrics ?? {};
  const units = task.units ?? {};
  const isThere = (name) => typeof metrics[name] === "number";
  const score = [...SCORES, ...Object.keys(units)].find(isThere);
  if (score) {
    const unit = units[score] ?? (score.endsWith("_acc") ? "percent" : null);
    const value = unit === "fraction" ? metrics[score] * 100 : metrics[score];
    if (unit) return { name: score, text: `${number(value)}%`, percent: value };
    return { name: score, text: number(value), percent: value > 1 ? value : value * 100 };
  }
  const name = LOSSES.find(isThere) ?? Object.keys(metrics).find((each) => isThere(each) && !/epoch|step/.test(each));
  return name && { name, text: number(metrics[name]) };
}
