/**
 * One square of the picture: two canvases, the ground that changes with the noise level and the sky that changes every
 * frame. Drawing is in device pixels; places are u in [-reach, reach]², y upwards.
 */

const DENSEST = 2; // device pixels a CSS pixel: more costs time and shows nothing

export class Stage {
  /** @param {HTMLElement} figure holds canvas.ground and canvas.sky */
  constructor(figure) {
    this.figure = figure;
    this.ground = figure.querySelector("canvas.ground");
    this.sky = figure.querySelector("canvas.sky");
    this.sprites = new Map();
    this.drawn = "";
  }

  /** Fit the canvases to their place; true if that cleared them. */
  fit() {
    const dense = Math.min(window.devicePixelRatio || 1, DENSEST);
    const size = Math.round(this.sky.clientWidth * dense);
    this.dense = dense;
    if (!size || this.sky.width === size) return false;
    for (const canvas of [this.ground, this.sky]) [canvas.width, canvas.height] = [size, size];
    this.drawn = "";
    return true;
  }

  /** Draw the ground once for each key. */
  lay(key, draw) {
    if (this.drawn === key) return;
    this.drawn = key;
    const context = this.ground.getContext("2d");
    context.clearRect(0, 0, this.ground.width, this.ground.height);
    draw(context, this.ground.width, this.dense);
  }

  clear() {
    this.sky.getContext("2d").clearRect(0, 0, this.sky.width, this.sky.height);
  }

  /** Particles: one small image of a dot, copied n times. */
  particles(u, reach, colour, opacity = 1) {
    const context = this.sky.getContext("2d");
    const size = this.sky.width;
    const dot = this.dot(colour, dotRadius(u.length / 2) * this.dense * Math.sqrt(size / this.dense / 440));
    const half = dot.width / 2;
    const factor = size / (2 * reach);
    context.globalAlpha = opacity;
    for (let i = 0; i < u.length; i += 2) {
      const x = (u[i] + reach) * factor;
      const y = (reach - u[i + 1]) * factor;
      if (x > -half && x < size + half && y > -half && y < size + half) {
        context.drawImage(dot, Math.round(x - half), Math.round(y - half));
      }
    }
    context.globalAlpha = 1;
  }

  /** Polylines [x, y, x, y, ...] in one path. */
  lines(lines, reach, colour, width, opacity = 1) {
    const context = this.sky.getContext("2d");
    const factor = this.sky.width / (2 * reach);
    context.beginPath();
    for (const line of lines) {
      context.moveTo((line[0] + reach) * factor, (reach - line[1]) * factor);
      for (let k = 2; k < line.length; k += 2) context.lineTo((line[k] + reach) * factor, (reach - line[k + 1]) * factor);
    }
    context.globalAlpha = opacity;
    context.strokeStyle = colour;
    context.lineWidth = width * this.dense;
    context.lineJoin = "round";
    context.stroke();
    context.globalAlpha = 1;
  }

  /** A ring or a disc of a radius in CSS pixels. */
  disc([x, y], reach, radius, { fill, stroke }) {
    const context = this.sky.getContext("2d");
    const factor = this.sky.width / (2 * reach);
    context.beginPath();
    context.arc((x + reach) * factor, (reach - y) * factor, radius * this.dense, 0, 2 * Math.PI);
    if (fill) {
      context.fillStyle = fill;
      context.fill();
    }
    context.strokeStyle = stroke;
    context.lineWidth = 1.6 * this.dense;
    context.stroke();
  }

  /** The keyboard's cursor: a cross. */
  cross([x, y], reach, colour) {
    const arm = (9 / this.sky.clientWidth) * 2 * reach;
    this.lines([[x - arm, y, x + arm, y], [x, y - arm, x, y + arm]], reach, colour, 1.5); // prettier-ignore
  }

  dot(colour, radius) {
    const key = `${colour} ${radius}`;
    if (!this.sprites.has(key)) {
      if (this.sprites.size > 16) this.sprites.clear();
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 2 * Math.ceil(radius + 0.5);
      const context = canvas.getContext("2d");
      context.fillStyle = colour;
      context.beginPath();
      context.arc(canvas.width / 2, canvas.width / 2, radius, 0, 2 * Math.PI);
      context.fill();
      this.sprites.set(key, canvas);
    }
    return this.sprites.get(key);
  }
}

function dotRadius(n) {
  return Math.min(Math.max(2.3 * (500 / n) ** 0.3, 1.05), 2.4);
}
