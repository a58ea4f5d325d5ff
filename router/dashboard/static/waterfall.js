// The last requests, newest first: a bar each, with its parts to scale; the numbers are in a tip.

import { byId, make, say } from "./dom.js";
import { ago, bytes, count, ms, NONE, short } from "./format.js";

const ROWS = 60;
const SCALED = 16; // rows that are seen without scrolling; what is longer than all of these is cut
const STEPS = [1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10]; // a quarter of each is short to write

export class Waterfall {
  constructor() {
    this.list = byId("waterfall");
    this.rows = []; // newest first
    this.zoomed = false;
    this.tip = new Tip();
    byId("zoom").addEventListener("click", (event) => {
      this.zoomed = !this.zoomed;
      event.currentTarget.setAttribute("aria-pressed", this.zoomed);
      this.scale();
    });
  }

  reset(requests) {
    this.list.replaceChildren();
    this.rows = [];
    this.add(requests, false);
  }

  /** `requests` oldest first. */
  add(requests, fresh = true) {
    for (const request of requests) {
      const row = new Row(request, this.tip, fresh);
      this.rows.unshift(row);
      this.list.prepend(row.element);
    }
    for (const row of this.rows.splice(ROWS)) row.element.remove();
    byId("no-rows").hidden = this.rows.length > 0;
    this.scale();
  }

  /** Bars share one scale: that of the newest, to the longest one's end, or to its first token and handoff. */
  scale() {
    const lengths = this.rows.slice(0, SCALED).map((row) => row.length(this.zoomed));
    const full = nice(Math.max(1, ...lengths));
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => {
      const tick = make("span", "", {}, share ? short(ms(full * share)) : "0");
      tick.style.left = `${100 * share}%`;
      return tick;
    });
    byId("axis").replaceChildren(...ticks);
    for (const row of this.rows) row.scale(full);
  }

  /** Time has passed. */
  age(now) {
    for (const row of this.rows) row.age(now);
  }
}

/** The next round number. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * STEPS.find((step) => step * power >= value);
}

class Row {
  constructor(request, tip, fresh) {
    this.request = request;
    this.bars = request.segments.map((segment) => ({ segment, bar: make("i", `k-${segment.name}`) }));
    this.when = make("span", "", {}, "");
    const failed = request.status !== 200;
    const words = failed ? request.finish : ms(request.total_ms);
    this.element = make(
      "li", `row${fresh ? " new" : ""}${failed ? " failed" : ""}`,
      { tabindex: "0", "data-request": request.id, "aria-label": summary(request) },
      make("span", "who", {}, make("code", "", {}, request.id.slice(0, 6)), " ", this.when),
      make("span", "track", {}, ...this.bars.map(({ bar }) => bar)),
      make("span", "end", {}, make("b", "", {}, words), make("span", "more", {}, ` ${count(request.prompt)} → ${count(request.output)} tok`)),
    );
    this.element.addEventListener("pointerenter", (event) => tip.show(request, event.clientX, event.clientY));
    this.element.addEventListener("pointermove", (event) => tip.move(event.clientX, event.clientY));
    this.element.addEventListener("focus", () => {
      const box = this.element.getBoundingClientRect();
      tip.show(request, box.left + 120, box.bottom);
    });
    for (const name of ["pointerleave", "blur"]) this.element.addEventListener(name, () => tip.hide());
  }

  length(zoomed) {
    const parts = zoomed ? this.request.segments.filter((segment) => segment.name !== "decode") : this.request.segments;
    return Math.max(0, ...parts.map((segment) => segment.end_ms)) * (zoomed ? 1.1 : 1);
  }

  scale(full) {
    for (const { segment, bar } of this.bars) {
      bar.style.left = `${(100 * segment.start_ms) / full}%`;
      bar.style.width = `${(100 * (segment.end_ms - segment.start_ms)) / full}%`;
    }
  }

  age(now) {
    say(this.when, ago(this.request.at + this.request.total_ms / 1000, now));
  }
}

const summary = (request) =>
  `Request ${request.id}: ${request.segments.map((s) => `${s.name} ${ms(s.end_ms - s.start_ms)}`).join(", ")}`;

/** What a bar does not tell. */
class Tip {
  constructor() {
    this.element = byId("tip");
  }

  show(request, x, y) {
    const table = make("table");
    for (const { name, start_ms: from, end_ms: to } of request.segments) table.append(line(name, ms(to - from), `k-${name}`));
    table.append(
      line("first token", ms(request.ttft_ms)),
      line("KV moved", request.bytes ? bytes(request.bytes) : NONE),
      line("hidden behind prefill", ms(request.hidden_ms)),
      line("prompt", `${count(request.prompt)} tokens, ${request.cached ?? NONE} cached`),
      line("answer", `${count(request.output)} tokens, ${request.finish}`),
    );
    const route = request.prefill_node ? `${request.prefill_node} → ${request.decode_node}` : "no node";
    const tries = request.attempts > 1 ? `, ${request.attempts} attempts` : "";
    this.element.replaceChildren(table, make("p", "", {}, `${request.id} · ${route}${tries}`));
    this.element.hidden = false;
    this.move(x, y);
  }

  move(x, y) {
    const { offsetWidth: width, offsetHeight: height } = this.element;
    this.element.style.left = `${Math.max(6, Math.min(x + 16, innerWidth - width - 8))}px`;
    this.element.style.top = `${y + 18 + height > innerHeight ? Math.max(6, y - height - 12) : y + 18}px`;
  }

  hide() {
    this.element.hidden = true;
  }
}

function line(label, value, className = "") {
  return make("tr", "", {}, make("th", className, {}, label), make("td", "", {}, value));
}
