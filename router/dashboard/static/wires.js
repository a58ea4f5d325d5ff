// The ways between the cards, and what moves on them: a dot for a request, a square for KV pages, tokens back.

import { byId, makeSvg } from "./dom.js";
import { ROUTER } from "./diagram.js";

const MOST = 90; // dots at once
const A_TICK = 7; // dots that one way sends out in a second, at most
const CORNER = 12;
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Wires {
  constructor(cards) {
    this.cards = cards;
    this.svg = byId("wires");
    this.paths = new Map(); // "from>to" -> {path, kind}
    this.dots = [];
    this.frame = this.frame.bind(this);
    new ResizeObserver(() => this.lay()).observe(byId("fleet"));
  }

  /** Lays a wire from the router to each node that reads, from each of those to each that writes, and back. */
  lay() {
    for (const { path } of this.paths.values()) path.remove();
    for (const dot of this.dots.splice(0)) dot.shape.remove();
    this.paths.clear();
    const frame = this.svg.getBoundingClientRect();
    const plan = planFor(this.cards, frame);
    for (const [key, kind, d] of plan) {
      const path = makeSvg("path", `wire w-${kind}`, { d });
      this.svg.append(path);
      this.paths.set(key, { path, kind });
    }
  }

  /** `ways` of a snapshot: what is on each now, and what came through in the last second. */
  show(ways) {
    const busy = new Map(ways.map((way) => [`${way.from}>${way.to}`, way]));
    for (const [key, { path, kind }] of this.paths) {
      const way = busy.get(key);
      path.classList.toggle("busy", Boolean(way));
      if (way && !still.matches && !document.hidden) this.send(path, kind, Math.min(A_TICK, way.now + way.done));
    }
  }

  send(path, kind, number) {
    const length = path.getTotalLength();
    const now = performance.now();
    for (let i = 0; i < number && this.dots.length < MOST; i += 1) {
      const shape = kind === "kv"
        ? makeSvg("rect", `dot w-${kind}`, { x: -4, y: -4, width: 8, height: 8, rx: 2, opacity: 0 })
        : makeSvg("circle", `dot w-${kind}`, { r: kind === "token" ? 2.6 : 3.6, opacity: 0 });
      this.svg.append(shape);
      const start = now + (i * 1000) / number;
      this.dots.push({ shape, path, length, start, lasts: Math.max(500, length * 2.2) });
    }
    if (this.dots.length && !this.running) {
      this.running = true;
      requestAnimationFrame(this.frame);
    }
  }

  frame(now) {
    this.dots = this.dots.filter((dot) => {
      const share = (now - dot.start) / dot.lasts;
      if (share >= 1) {
        dot.shape.remove();
        return false;
      }
      if (share >= 0) {
        const { x, y } = dot.path.getPointAtLength(share * dot.length);
        dot.shape.setAttribute("transform", `translate(${x} ${y})`);
        dot.shape.setAttribute("opacity", Math.min(1, 6 * share, 6 * (1 - share)));
      }
      return true;
    });
    this.running = this.dots.length > 0;
    if (this.running) requestAnimationFrame(this.frame);
  }
}

/** [key, kind, path data] of every wire, for where the cards are now. */
function planFor(cards, frame) {
  const boxes = [...cards].map(([name, card]) => ({ name, role: card.element.dataset.role, ...boxOf(card.element, frame) }));
  const router = boxes.find((box) => box.name === ROUTER);
  const prefill = boxes.filter((box) => box.role === "prefill");
  const decode = boxes.filter((box) => box.role === "decode");
  const narrow = router && [...prefill, ...decode].every((box) => box.top >= router.bottom);
  const shape = narrow ? rails(frame.width) : buses(router);
  const readers = prefill.length ? prefill : decode; // without prefill nodes, decode nodes read
  return [
    ...readers.map((p, i) => [`${ROUTER}>${p.name}`, "request", shape.request(router, p, i)]),
    ...prefill.flatMap((p, i) => decode.map((d, j) => [`${p.name}>${d.name}`, "kv", shape.kv(p, d, i, j, decode.length, prefill.length)])),
    ...decode.map((d, i) => [`${d.name}>${ROUTER}`, "token", shape.token(router, d, i)]),
  ];
}

function boxOf(element, frame) {
  const { left, top, right, bottom, width } = element.getBoundingClientRect();
  return { left: left - frame.left, top: top - frame.top, right: right - frame.left, bottom: bottom - frame.top, width };
}

/** Side by side: requests go over the prefill nodes, tokens come back under the decode nodes, KV falls between. */
function buses(router) {
  return {
    request: (r, to) => {
      const x = to.left + 46, y = Math.max(9, to.top - 15);
      return to.top < y + 4 ? line([[r.right, y], [x, y]]) : line([[r.right, y + 0.01], [x, y], [x, to.top]]);
    },
    kv: (p, d, i, j, ds, ps) => {
      const from = p.left + (p.width * (j + 1)) / (ds + 1), to = d.left + (d.width * (i + 1)) / (ps + 1);
      const middle = (p.bottom + d.top) / 2;
      return `M${from} ${p.bottom}C${from} ${middle + 8} ${to} ${middle - 8} ${to} ${d.top}`;
    },
    token: (r, from) => {
      const x = from.left + 46, y = from.bottom + 15;
      return line([[x, from.bottom], [x, y], [r.right, y - 0.01]].map(([a, b]) => [a, Math.min(b, Math.max(router.bottom - 9, from.bottom + 4))]));
    },
  };
}

/** Below each other: requests and tokens on the left, KV on the right. */
function rails(width) {
  const centre = (box) => (box.top + box.bottom) / 2;
  return {
    request: (r, to) => line([[r.left, centre(r)], [r.left - 9, centre(r)], [r.left - 9, centre(to)], [to.left, centre(to)]]),
    kv: (p, d, i, j) => {
      const x = Math.min(width - 3, p.right + 8 + 4 * ((i + j) % 4));
      return line([[p.right, centre(p)], [x, centre(p)], [x, centre(d)], [d.right, centre(d)]]);
    },
    token: (r, from) => line([[from.left, centre(from)], [r.left - 18, centre(from)], [r.left - 18, centre(r) - 14], [r.left, centre(r) - 14]]),
  };
}

/** A path through `points` with round corners. */
function line(points) {
  let d = `M${points[0][0]} ${points[0][1]}`;
  for (let i = 1; i < points.length - 1; i += 1) {
    const [x, y] = points[i];
    const [ax, ay] = toward(points[i], points[i - 1]);
    const [bx, by] = toward(points[i], points[i + 1]);
    d += `L${ax} ${ay}Q${x} ${y} ${bx} ${by}`;
  }
  const [x, y] = points[points.length - 1];
  return `${d}L${x} ${y}`;
}

function toward([x, y], [ox, oy]) {
  const distance = Math.hypot(ox - x, oy - y) || 1;
  const step = Math.min(CORNER, distance / 2) / distance;
  return [x + (ox - x) * step, y + (oy - y) * step];
}
