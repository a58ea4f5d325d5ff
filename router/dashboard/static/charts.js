// Four charts of the last ten minutes, drawn by uPlot. A chart's head shows the newest values, or those under the
// pointer; all pointers move together.

import uPlot from "./vendor/uPlot.esm.js";
import { byId, colour, make, say } from "./dom.js";
import { count, ms, percent, short } from "./format.js";

const KEEP = 600; // points

const CHARTS = [
  { title: "First token", show: ms, series: [["p50", "ttft_p50", "--prefill"], ["p95", "ttft_p95", "--handoff"]] },
  { title: "Token gap", show: ms, series: [["p50", "itl_p50", "--decode"], ["p99", "itl_p99", "--handoff"]] },
  { title: "Tokens/s", show: count, series: [["read", "prompt_rate", "--prefill"], ["written", "output_rate", "--decode"]] },
  {
    title: "KV in use", show: percent, top: 1,
    series: [["prefill", "kv_prefill", "--prefill"], ["decode", "kv_decode", "--decode"]],
  },
];

const clock = (unix) => new Date(unix * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export class Charts {
  constructor() {
    this.columns = {};
    this.charts = CHARTS.map((spec) => new Chart(spec, this));
    byId("charts").append(...this.charts.map((chart) => chart.element));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.charts.forEach((chart) => chart.draw()));
  }

  /** All points anew, as columns. */
  reset(columns) {
    this.columns = columns;
    this.charts.forEach((chart) => chart.update());
  }

  add(point) {
    for (const [name, values] of Object.entries(this.columns)) {
      values.push(point[name]);
      if (values.length > KEEP) values.shift();
    }
    this.charts.forEach((chart) => chart.update());
  }
}

class Chart {
  constructor(spec, owner) {
    this.spec = spec;
    this.owner = owner;
    this.values = spec.series.map(([label, , variable]) => {
      const value = make("b");
      value.style.setProperty("--k", `var(${variable})`);
      return { value, cell: make("span", "", {}, `${label} `, value) };
    });
    this.plot = make("div", "plot");
    this.element = make(
      "figure", "chart", { "data-chart": spec.title, "aria-label": spec.title },
      make("figcaption", "chart-head", {}, make("h2", "", {}, spec.title), make("div", "chart-values", {}, ...this.values.map((v) => v.cell))),
      this.plot,
    );
    this.element.style.margin = "0";
    new ResizeObserver(() => this.fit()).observe(this.plot);
  }

  data() {
    return [this.owner.columns.t ?? [], ...this.spec.series.map(([, column]) => this.owner.columns[column] ?? [])];
  }

  update() {
    const data = this.data();
    if (this.chart) this.chart.setData(data);
    else if (data[0].length) this.draw();
    this.element.dataset.points = data[0].length;
    this.head(this.chart?.cursor.idx ?? null);
  }

  /** The values at `index`, or the newest. */
  head(index) {
    const data = this.data();
    this.values.forEach(({ value }, i) => {
      const column = data[i + 1];
      say(value, this.spec.show(column[index ?? column.length - 1]));
    });
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (this.chart && width) this.chart.setSize({ width, height });
  }

  draw() {
    this.chart?.destroy();
    const { clientWidth: width, clientHeight: height } = this.plot;
    const data = this.data();
    if (!width || !data[0].length) return;
    this.chart = new uPlot(this.options(width, height), data, this.plot);
  }

  options(width, height) {
    const { show, top, series } = this.spec;
    const muted = colour("--muted"), grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: muted, font: "10px system-ui, sans-serif", ticks: { show: false } };
    return {
      width,
      height,
      padding: [8, 10, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "pagewire" }, y: false, points: { size: 6 }, drag: { x: false, y: false } },
      scales: {
        x: { range: (_, low, high) => [Math.min(low, high - 60), high] },
        y: { range: (_, __, high) => [0, top ? Math.max(0.05, Math.min(top, high * 1.25)) : Math.max(high * 1.12, 1e-3) || 1] },
      },
      axes: [
        { ...axis, grid: { show: false }, size: 20, space: 64, values: (_, ticks) => ticks.map(clock) },
        { ...axis, grid, size: 50, space: 34, values: (_, ticks) => ticks.map((tick) => (tick === 0 ? "0" : short(show(tick)))) },
      ],
      series: [
        {},
        ...series.map(([label, , variable], i) => ({
          label,
          stroke: colour(variable),
          width: 1.75,
          fill: i === 0 || top ? `${colour(variable)}22` : undefined,
          points: { show: false },
          spanGaps: true,
        })),
      ],
      hooks: { setCursor: [(chart) => this.head(chart.cursor.idx)] },
    };
  }
}
