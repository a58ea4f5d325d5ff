// The nodes as cards. Knows what a snapshot says of each; the wires between them are drawn in wires.js.

import { byId, Figures, make, say } from "./dom.js";
import { bytes, count, percent } from "./format.js";

export const ROUTER = ""; // what a snapshot calls the router

export class Diagram {
  constructor() {
    this.cards = new Map(); // name -> NodeCard, or the router's
    this.router = new RouterCard();
    this.cards.set(ROUTER, this.router);
    byId("router").append(this.router.element);
  }

  /** True if cards came or went: then wires have to be laid anew. */
  show(state, point) {
    this.router.show(state, point);
    const seen = new Set([ROUTER]);
    let changed = false;
    for (const node of state.nodes) {
      seen.add(node.node);
      let card = this.cards.get(node.node);
      if (!card) {
        card = new NodeCard(node);
        this.cards.set(node.node, card);
        insert(byId(node.role), card.element);
        changed = true;
      }
      card.show(node);
    }
    for (const [name, card] of this.cards) {
      if (!seen.has(name)) {
        card.element.remove();
        this.cards.delete(name);
        changed = true;
      }
    }
    return changed;
  }
}

/** Cards stand in the order of their names. */
function insert(lane, element) {
  const after = [...lane.children].find((other) => other.dataset.node > element.dataset.node);
  lane.insertBefore(element, after ?? null);
}

class NodeCard {
  constructor(node) {
    this.used = make("i", "used");
    this.cached = make("i", "cached");
    this.bar = make("div", "bar", { role: "img" }, this.used, this.cached);
    this.caption = make("div", "caption");
    this.far = make("span", "far");
    const list = make("dl", "figures");
    this.figures = new Figures(list);
    this.element = make(
      "article", "card", { "data-node": node.node, "data-role": node.role, "aria-label": node.node },
      make("div", "card-name", {}, make("b", "", {}, node.node), make("span", "", {}, `pid ${node.pid}`), this.far),
      make("div", "pages", {}, this.bar, this.caption),
      list,
    );
  }

  show(node) {
    const { total, used, cached } = node.pages;
    this.element.dataset.suspect = node.suspect;
    this.used.style.width = percentOf(used, total);
    this.cached.style.width = percentOf(cached, total);
    const words = `${count(used)} used, ${count(cached)} cached, ${count(total - used - cached)} free`;
    this.bar.setAttribute("aria-label", `Pages: ${words}`);
    say(this.caption, `${words} of ${count(total)} pages`);
    say(this.far, node.suspect ? `silent ${node.silent_s} s` : percent(total ? used / total : 0));
    this.figures.show(node.role === "prefill" ? prefillFigures(node) : decodeFigures(node));
  }
}

const percentOf = (part, whole) => `${whole ? (100 * part) / whole : 0}%`;

const prefillFigures = (node) => ({
  queue: count(node.waiting),
  batch: count(node.running),
  "to read": count(node.queued_tokens),
  "sending": `${count(node.transfers)} · ${bytes(node.bytes_rate)}/s`,
});

const decodeFigures = (node) => ({
  queue: count(node.waiting + node.landing),
  batch: count(node.running),
  "steps/s": count(node.steps_rate),
  "landing": `${count(node.transfers)} · ${bytes(node.bytes_rate)}/s`,
});

class RouterCard {
  constructor() {
    this.big = make("div", "big", {}, "0");
    this.used = make("i", "used");
    this.caption = make("div", "caption");
    const list = make("dl", "figures");
    this.figures = new Figures(list);
    this.element = make(
      "article", "card", { "data-node": "router", "data-role": "router", "aria-label": "router" },
      make("div", "card-name", {}, make("b", "", {}, "router")),
      make("div", "", {}, this.big, make("div", "bar", { "aria-hidden": "true" }, this.used), this.caption),
      list,
    );
  }

  show(state, point) {
    say(this.big, count(state.inflight));
    this.used.style.width = percentOf(Math.min(state.inflight, state.limit), state.limit);
    say(this.caption, `requests in flight, of ${count(state.limit)} at most`);
    this.figures.show({
      "requests/s": count(state.request_rate),
      "nodes": count(state.nodes.length),
      "tokens/s in": count(point?.prompt_rate ?? 0),
      "tokens/s out": count(point?.output_rate ?? 0),
    });
  }
}
