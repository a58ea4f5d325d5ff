// Wires the page together: one stream of snapshots in, four views out.

import { Charts } from "./charts.js";
import { Chat } from "./chat.js";
import { Diagram } from "./diagram.js";
import { byId, Figures, say } from "./dom.js";
import { count, ms } from "./format.js";
import { events, keep, NeedsKey } from "./stream.js";
import { Waterfall } from "./waterfall.js";
import { Wires } from "./wires.js";

const AGAIN_MS = 1500; // after the stream was lost

const diagram = new Diagram();
const wires = new Wires(diagram.cards);
const charts = new Charts();
const waterfall = new Waterfall();
const headline = new Figures(byId("headline"));
let asking = null; // a promise while the key is being asked for
let ahead = 0; // seconds that the server's clock is ahead of ours

new Chat(() => askForKey());
setInterval(() => waterfall.age(Date.now() / 1000 + ahead), 1000);
watch();

async function watch() {
  for (;;) {
    try {
      for await (const { event, data } of events("dashboard/events")) show(event, JSON.parse(data));
      status("offline", "reconnecting");
    } catch (error) {
      status("offline", error instanceof NeedsKey ? "key needed" : "reconnecting");
      if (error instanceof NeedsKey) await askForKey();
      else if (!(error instanceof TypeError)) status("offline", error.message);
    }
    await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
}

function show(event, { state, point, points, rows }) {
  if (event === "all") {
    charts.reset(points);
    waterfall.reset(rows);
    point = Object.fromEntries(Object.entries(points).map(([name, values]) => [name, values.at(-1)]));
  } else {
    charts.add(point);
    waterfall.add(rows);
  }
  if (point.t) ahead = point.t - Date.now() / 1000;
  status(state.status, state.status);
  say(byId("model"), state.model);
  headline.show({
    "first token": ms(point.ttft_p50),
    "between tokens": ms(point.itl_p50),
    "tokens/s": count(point.output_rate ?? 0),
    "requests/s": count(point.request_rate ?? 0),
  });
  if (diagram.show(state, point)) wires.lay();
  wires.show(state.ways);
  waterfall.age(Date.now() / 1000 + ahead);
  document.documentElement.dataset.shown = event; // for tests: something is on the screen
}

function status(kind, text) {
  const element = byId("status");
  element.dataset.status = kind;
  say(element, text);
}

/** Resolves once somebody has entered a key; whoever asks meanwhile waits for the same. */
function askForKey() {
  asking ??= new Promise((done) => {
    const dialog = byId("key-dialog");
    byId("key-form").addEventListener("submit", () => keep(byId("key").value.trim()), { once: true });
    dialog.addEventListener("close", () => {
      asking = null;
      byId("key").value = "";
      done();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
