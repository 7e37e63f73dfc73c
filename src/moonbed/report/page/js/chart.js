/** Small charts in SVG: lines with bands and points with intervals, over few marks; a table beside has their numbers. */

const SVG = "http://www.w3.org/2000/svg";
const WIDE = [300, 560]; // CSS pixels, so that letters have their size at every width
const HIGH = 250;
const EDGE = { left: 52, right: 14, top: 12, bottom: 40 };

export class Chart {
  /**
   * @param {SVGElement} svg
   * @param {{x: [number, number], y: [number, number], logX: boolean, logY: boolean, xName: string,
   *   xTicks?: number[], xEnds?: [string, string]}} axes; `x` may fall from left to right
   */
  constructor(svg, axes) {
    this.svg = svg;
    this.axes = axes;
    this.wide = Math.min(Math.max(svg.parentElement.clientWidth, WIDE[0]), WIDE[1]);
    svg.setAttribute("viewBox", `0 0 ${this.wide} ${HIGH}`);
    svg.replaceChildren();
    this.frame();
  }

  x(value) {
    return place(value, this.axes.x, this.axes.logX, EDGE.left, this.wide - EDGE.right);
  }

  y(value) {
    const low = this.axes.logY ? Math.max(value, this.axes.y[0]) : value;
    return place(low, this.axes.y, this.axes.logY, HIGH - EDGE.bottom, EDGE.top);
  }

  frame() {
    const [left, right, bottom] = [EDGE.left, this.wide - EDGE.right, HIGH - EDGE.bottom];
    const { axes } = this;
    for (const value of axes.yTicks || ticks(axes.y, axes.logY)) {
      this.add("line", { class: "grid", x1: left, x2: right, y1: this.y(value), y2: this.y(value) });
      this.text(tick(value), left - 8, this.y(value) + 4, "end", "tick");
    }
    for (const value of axes.xTicks || ticks(axes.x, axes.logX)) {
      this.add("line", { class: "grid mark", x1: this.x(value), x2: this.x(value), y1: bottom, y2: bottom + 4 });
      this.text(tick(value), this.x(value), bottom + 17, "middle", "tick");
    }
    this.add("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom });
    this.text(axes.xName, (left + right) / 2, HIGH - 5, "middle", "name");
    const [first, last] = axes.xEnds || ["", ""];
    this.text(first, left, HIGH - 5, "start", "ends");
    this.text(last, right, HIGH - 5, "end", "ends");
  }

  /** A band between `low` and `high` (arrays over `x`, or two numbers over the whole width). */
  band(x, low, high, name) {
    const up = x.map((value, i) => `${this.x(value)},${this.y(high[i])}`);
    const down = x.map((value, i) => `${this.x(value)},${this.y(low[i])}`).reverse();
    this.add("polygon", { class: `band ${name}`, points: [...up, ...down].join(" ") });
  }

  line(x, y, name) {
    this.add("polyline", { class: `curve ${name}`, points: x.map((v, i) => `${this.x(v)},${this.y(y[i])}`).join(" ") });
  }

  /** A point with its interval. */
  point(x, y, low, high, name) {
    const [px, a, b] = [this.x(x), this.y(low), this.y(high)];
    this.add("line", { class: `interval ${name}`, x1: px, x2: px, y1: a, y2: b });
    this.add("circle", { class: `point ${name}`, cx: px, cy: this.y(y), r: 4 });
  }

  /** A movable vertical mark; returns the function that moves it. */
  marker() {
    const line = this.add("line", { class: "now", y1: EDGE.top, y2: HIGH - EDGE.bottom });
    return (value) => {
      const px = Math.min(Math.max(this.x(value), EDGE.left), this.wide - EDGE.right);
      for (const end of ["x1", "x2"]) line.setAttribute(end, px.toFixed(1));
    };
  }

  text(content, x, y, anchor, name) {
    this.add("text", { x, y, "text-anchor": anchor, class: name }).textContent = content;
  }

  add(name, attributes) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    this.svg.append(element);
    return element;
  }
}

/** Powers of ten around positive values: an axis of at most `decades`, from above. */
export function decadesAround(values, decades = 9) {
  const positive = values.filter((value) => value > 0);
  if (!positive.length) return [1e-3, 1];
  const top = Math.ceil(Math.log10(Math.max(...positive)) - 1e-9);
  const bottom = Math.max(Math.floor(Math.log10(Math.min(...positive)) + 1e-9), top - decades);
  return [10 ** Math.min(bottom, top - 1), 10 ** top];
}

/** Rows of a table, its first row the head. */
export function fillTable(table, rows) {
  const row = (cells, kind) => {
    const line = document.createElement("tr");
    line.append(
      ...cells.map((cell) => {
        const element = document.createElement(kind);
        element.textContent = cell;
        if (kind === "th") element.scope = "col";
        return element;
      }),
    );
    return line;
  };
  const [head, body] = [document.createElement("thead"), document.createElement("tbody")];
  head.append(row(rows[0], "th"));
  body.append(...rows.slice(1).map((cells) => row(cells, "td")));
  table.replaceChildren(head, body);
}

function place(value, [low, high], logarithmic, from, to) {
  const part = logarithmic ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  return Number((from + part * (to - from)).toFixed(2));
}

function ticks([low, high], logarithmic) {
  if (!logarithmic) {
    const step = 10 ** Math.floor(Math.log10(high - low));
    const wide = (high - low) / step < 2.5 ? step / 2 : (high - low) / step > 6 ? 2 * step : step;
    const first = Math.ceil(low / wide - 1e-9);
    return Array.from({ length: Math.floor(high / wide + 1e-9) - first + 1 }, (_, i) => (first + i) * wide);
  }
  const from = Math.ceil(Math.log10(Math.min(low, high)) - 1e-9);
  const to = Math.floor(Math.log10(Math.max(low, high)) + 1e-9);
  const every = Math.ceil((to - from + 1) / 5);
  return Array.from({ length: Math.floor((to - from) / every) + 1 }, (_, i) => 10 ** (from + i * every));
}

function tick(value) {
  const power = Math.log10(value);
  if (value > 0 && Number.isInteger(power) && Math.abs(power) > 2) return `10${superscript(power)}`;
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

function superscript(power) {
  return [...String(power)].map((digit) => (digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])).join("");
}
