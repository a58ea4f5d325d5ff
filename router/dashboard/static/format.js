// Numbers as people read them.

export const NONE = "–";

/** 12 ms, 1.25 s, 2 m 05 s */
export function ms(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 10) return `${value.toFixed(1)} ms`;
  if (value < 1000) return `${Math.round(value)} ms`;
  if (value < 60000) return `${(value / 1000).toFixed(2)} s`;
  return `${Math.floor(value / 60000)} m ${String(Math.floor(value / 1000) % 60).padStart(2, "0")} s`;
}

/** 4.00 s is 4 s at an axis, and 12.50 s is 12.5 s. */
export const short = (text) => text.replace(/(\.\d*?)0+(?=\D)/, "$1").replace(/\.(?=\D)/, "");

/** 950, 1.2k, 34k, 5.1M */
export function count(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 1000) return Number.isInteger(value) ? String(value) : value.toFixed(value < 10 ? 1 : 0);
  if (value < 1e6) return `${(value / 1000).toFixed(value < 10000 ? 1 : 0)}k`;
  return `${(value / 1e6).toFixed(1)}M`;
}

/** 640 B, 12 KiB, 3.4 MiB, 1.1 GiB */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export const percent = (share) =>
  share === null || share === undefined ? NONE : `${(share * 100).toFixed(share < 0.1 ? 1 : 0)}%`;

/** How long ago `unix` was, in a word. */
export function ago(unix, now) {
  const seconds = Math.max(0, now - unix);
  if (seconds < 1.5) return "now";
  if (seconds < 90) return `${Math.round(seconds)}s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}m`;
  return `${Math.round(seconds / 3600)}h`;
}
